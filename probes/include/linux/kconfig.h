/* bcc force-includes this file; nothing of the kernel's configuration is needed but that it has BPF. */
#define CONFIG_BPF_SYSCALL 1

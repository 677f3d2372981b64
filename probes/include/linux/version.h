/* The probes do not look at the kernel's version; bcc's own headers want the macro to exist. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE	KERNEL_VERSION(5, 8, 0)

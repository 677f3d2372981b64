/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * Numbers of the kernel, and how its memory is read. No header of its own is used: every offset comes from the
 * running kernel's BTF as OFF_<struct>__<member>, a number on the command line.
 */

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT    2
#define TCP_SYN_RECV    3
#define TCP_CLOSE       7

#define SS_UNCONNECTED  1
#define SOCK_STREAM     1
#define SOCK_DGRAM      2
#define O_NONBLOCK      04000
#define PF_KTHREAD      0x00200000
#define OTC_SHUT_BOTH   3 /* SHUTDOWN_MASK */
#define OTC_ORIGIN_ICMP 2 /* SO_EE_ORIGIN_ICMP; SO_EE_ORIGIN_ICMP6 is the next */
#define OTC_AF_INET     2
#define OTC_AF_INET6    10
#define OTC_IPPROTO_TCP 6
#define OTC_IPPROTO_UDP 17
#define IPPROTO_MPTCP   262
#define OTC_MAPPED      (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 0xffff0000 : 0xffff) /* ::ffff:0:0/96 */

#define EINTR          4
#define ECONNRESET     104
#define EISCONN        106
#define ECONNREFUSED   111
#define EALREADY       114
#define EINPROGRESS    115
#define ERESTART_FIRST 512 /* ERESTARTSYS .. ERESTART_RESTARTBLOCK: user space never sees them */
#define ERESTART_LAST  516

#define OTC_MMAPABLE  1024 /* BPF_F_MMAPABLE */
#define OTC_ON_DEMAND 1    /* BPF_F_NO_PREALLOC: a trie has to have it */
#define OTC_NO_WAKEUP 1    /* BPF_RB_NO_WAKEUP: the agent reads on a timer; a wakeup costs 7 times the probes */
#define OTC_AVAILABLE 0    /* BPF_RB_AVAIL_DATA */
#define OTC_NOEXIST   1    /* BPF_NOEXIST */

#define READ(destination, base, offset)                                                                        \
	bpf_probe_read_kernel(&(destination), sizeof(destination), (void *)((u64)(base) + (offset)))

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
#define SS_CONNECTING   2
#define SOCK_STREAM     1
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

/* A 16-bit number as it is on the network. */
static __always_inline u16 network_order(u16 number)
{
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap16(number) : number;
}

static __always_inline u32 network_order_32(u32 number)
{
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap32(number) : number;
}

#define EINTR          4
#define ECONNRESET     104
#define EISCONN        106
#define ECONNREFUSED   111
#define EALREADY       114
#define EINPROGRESS    115
#define ECANCELED      125
#define ERESTART_FIRST 512 /* ERESTARTSYS .. ERESTART_RESTARTBLOCK: user space never sees them */
#define ERESTART_LAST  516

#define IORING_OP_CONNECT 16
#define REQ_F_FIXED_FILE  1

/* How connect() calls are seen, if they are: OTC_CALLS. */
#define OTC_CALLS_BY_TRACEPOINT 1
#define OTC_CALLS_BY_FUNCTION   2

#define OTC_MMAPABLE  1024 /* BPF_F_MMAPABLE */
#define OTC_ON_DEMAND 1    /* BPF_F_NO_PREALLOC: a trie has to have it */
#define OTC_NO_WAKEUP 1    /* BPF_RB_NO_WAKEUP: the agent reads on a timer; a wakeup costs 7 times the probes */
#define OTC_AVAILABLE 0    /* BPF_RB_AVAIL_DATA */
#define OTC_NOEXIST   1    /* BPF_NOEXIST */

/* Through any address, also a wrong one: then there are zeros. */
#define READ(destination, base, offset)                                                                        \
	bpf_probe_read_kernel(&(destination), sizeof(destination), (void *)((u64)(base) + (offset)))

/*
 * Through a pointer whose type the verifier knows: an argument of a typed program, the current task, and what
 * members of theirs point to. One instruction instead of a call. By inline assembly, because bcc would make a
 * helper call of a C expression, and because clang would add the offset beforehand.
 */
#define LOAD(destination, base, offset)                                                                        \
	do {                                                                                                   \
		u64 loaded;                                                                                    \
		_Static_assert(sizeof(destination) <= 8, "a load is one register wide");                       \
		if (sizeof(destination) == 1)                                                                  \
			LOAD_AS("u8", loaded, base, offset);                                                   \
		else if (sizeof(destination) == 2)                                                             \
			LOAD_AS("u16", loaded, base, offset);                                                  \
		else if (sizeof(destination) == 4)                                                             \
			LOAD_AS("u32", loaded, base, offset);                                                  \
		else                                                                                           \
			LOAD_AS("u64", loaded, base, offset);                                                  \
		(destination) = loaded;                                                                        \
	} while (0)

#define LOAD_AS(width, destination, base, offset)                                                              \
	asm volatile("%0 = *(" width " *)(%1 + %2)" : "=r"(destination) : "r"((u64)(base)), "i"(offset))

#define LOAD_IF(typed, destination, base, offset)                                                              \
	do {                                                                                                   \
		if (typed)                                                                                     \
			LOAD(destination, base, offset);                                                       \
		else                                                                                           \
			READ(destination, base, offset);                                                       \
	} while (0)

/* A member of a structure that was read as bytes. */
#define OF(bytes, offset, type)                                                                                \
	({                                                                                                     \
		type member;                                                                                   \
		__builtin_memcpy(&member, (bytes) + (offset), sizeof(member));                                 \
		member;                                                                                        \
	})

/*
 * The address of something that only the loader knows: it puts it where these constants are
 * (otel_connect/capture/child.py).
 */
#define LINK(destination, constant) asm volatile("%0 = " constant " ll" : "=r"(destination))
#define LINK_PACKETS                "0x6f74632d6c696e01"

/* An IPv6 address. */
#define LOAD_ADDRESS(destination, base, offset)                                                                \
	do {                                                                                                   \
		LOAD(((u64 *)(destination))[0], base, offset);                                                 \
		LOAD(((u64 *)(destination))[1], base, (offset) + 8);                                           \
	} while (0)

/* The task that runs, and a member of what its members point to. Before Linux 5.11 its type is not known. */
#if OTC_TYPED_TASK
#define current_task() ((u64)bpf_get_current_task_btf())
#define LOAD_TASK      LOAD
#else
#define current_task() bpf_get_current_task()
#define LOAD_TASK      READ
#endif

// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * One record per TCP connect attempt; and the packets of name servers, if names are wanted.
 *
 *   raw tracepoint inet_sock_set_state   the beginning (CLOSE -> SYN_SENT) and the end of an attempt (typed)
 *   raw tracepoint tcp_receive_reset     that a RST ends it, before anybody can know and take the errno (typed)
 *   raw tracepoint net_dev_queue         a question to a name server leaves, or on loopback an answer (typed)
 *   raw tracepoint netif_receive_skb     the answer of a name server elsewhere arrives (typed)
 *   raw tracepoint kfree_skb             that this host has dropped its SYN, or the answer, and why (typed)
 *   tracepoint sys_enter_connect         opens a call: whose socket, in what state, to where
 *   tracepoint sys_exit_connect          the errno of attempts without SYN_SENT, or whose end was missed
 *
 * Where the kernel allows programs on its functions, these are in the place of the two tracepoints:
 *
 *   __sys_connect_file()     every connect(), of 64-bit and 32-bit programs and io_uring: its beginning and end
 *   tcp_sendmsg_fastopen()   sendto() and the like with MSG_FASTOPEN
 *
 * What becomes of an attempt, and which map has it meanwhile:
 *
 *   sys_enter_connect ----> calls
 *                             |
 *   CLOSE -> SYN_SENT --> in_progress
 *                             |
 *   its end ------------------+--> emit --> filtered? --> withheld? --> room? --> events, the ring
 *                             |               | yes         | yes         | no
 *   sys_exit_connect ---------+               +-------------+-------------+-----> tallies
 *
 * Typed programs get the arguments of a raw tracepoint as pointers whose types the verifier knows, and read the
 * kernel's memory by plain loads (LOAD in kernel.h).
 *
 * The kernel skips a program that would interrupt another on the same CPU: any other for perf tracepoints
 * (bpf_prog_active in trace_call_bpf), only itself for raw ones (prog->active in __bpf_trace_run). So the
 * state hook is a raw tracepoint and has two programs. Beginnings are in process context and interrupt none;
 * an end may come by softirq, in the middle of a beginning or of another end in process context, but never in
 * another softirq: of two programs for ends one is free.
 *
 * Only evidence is recorded; what it means is decided in otel_connect/capture/outcome.py.
 *
 * The parts are one program, in an order in which each needs only those before it. The agent joins them before
 * bcc sees them (otel_connect/capture/child.py), with numbers on the command line: the offsets (kernel.h),
 * OTC_CPUS, OTC_RING_PAGES, OTC_MAX_IN_PROGRESS, OTC_OWN_PID, OTC_MAX_TALLIES, OTC_MAX_FILTERS, OTC_CALLS,
 * OTC_RINGS, OTC_COMMAND_ARGS, OTC_DROP_NOT_SPECIFIED and the costs and bursts of the token buckets.
 */
/* The kernel compares this text with those it knows, blanks included. */
/* clang-format off */
#define BPF_LICENSE Dual MIT/GPL
/* clang-format on */

#include "connect.h"   /* the wire contract with the agent */
#include "kernel.h"    /* numbers of the kernel, and how its memory is read */
#include "ring.h"      /* where everything goes: the ring, and the counters */
#include "texts.h"     /* what can be read about a process */
#include "processes.h" /* whose an attempt is, and what the agent is told of a process */
#include "filters.h"   /* which attempts the operator wants no record of */
#include "limits.h"    /* who floods, and does without records */
#include "tallies.h"   /* how attempts without a record are counted */
#include "calls.h"     /* connect() calls: what the state hook cannot see of an attempt */
#include "attempts.h"  /* how an attempt begins, how it ends, and where it goes then */
#include "packets.h"   /* what passes between programs and name servers */

/* The tracepoint's arguments are the socket, its old and its new state, which is stored a little later. */
static __always_inline int state_changes(u64 *ctx, bool first)
{
	struct otc_counters *count;
	u64 sk = 0, old = 0, new = 0;

	LOAD(old, ctx, 8);
	LOAD(new, ctx, 16);
	if (new == TCP_SYN_SENT ? !first : old != TCP_SYN_SENT && old != TCP_SYN_RECV)
		return 0;
	if (new == TCP_SYN_RECV) /* simultaneous open: still pending */
		return 0;
	LOAD(sk, ctx, 0);
	if (!is_tcp(sk))
		return 0;
	count = this_cpu_counters();
	if (!count)
		return 0;
	if (new == TCP_SYN_SENT)
		begin(count, sk);
	else
		end(count, sk, old, new, first);
	return 0;
}

int state_change(u64 *ctx)
{
	return state_changes(ctx, true);
}

/* Handles the ends that the first one missed, and finds nothing left to do otherwise. */
int state_change_again(u64 *ctx)
{
	return state_changes(ctx, false);
}

/* The tracepoint's argument is the socket that a valid RST came for. */
int receive_reset(u64 *ctx)
{
	u64 sk = 0;

	LOAD(sk, ctx, 0);
	note_reset(sk);
	return 0;
}

/* The tracepoint's arguments are a packet, where it is dropped, and why (since Linux 5.17). */
int packet_dropped(u64 *ctx)
{
	u64 skb = 0, reason = 0;

	LOAD(skb, ctx, 0);
	LOAD(reason, ctx, 16);
	note_drop(skb, reason);
	return 0;
}

/* The tracepoint's argument is a packet that is about to be handed to a device. */
int packet_sent(u64 *ctx)
{
	u64 skb = 0;

	LOAD(skb, ctx, 0);
	sent(ctx, skb);
	return 0;
}

/* The tracepoint's argument is a packet that a device has received. */
int packet_received(u64 *ctx)
{
	u64 skb = 0;

	LOAD(skb, ctx, 0);
	received(skb);
	return 0;
}

#if OTC_CALLS == OTC_CALLS_BY_TRACEPOINT
TRACEPOINT_PROBE(syscalls, sys_enter_connect)
{
	open_call(file_of(args->fd), (u64)args->uservaddr, args->addrlen, false);
	return 0;
}

TRACEPOINT_PROBE(syscalls, sys_exit_connect)
{
	close_call(bpf_get_current_pid_tgid(), args->ret, CALL_HOOK);
	return 0;
}
#endif

#if OTC_RINGS
/* The tracepoint's argument is a request of io_uring that is about to be tried. Its file is not looked up yet.
 */
int ring_submits(u64 *ctx)
{
	u64 request = 0, address = 0;
	u32 flags = 0, fd = 0, length = 0;
	u8 operation = 0;

	LOAD(request, ctx, 0);
	LOAD(operation, request, OFF_io_kiocb__opcode);
	if (operation != IORING_OP_CONNECT)
		return 0;
	LOAD(flags, request, OFF_io_kiocb__flags);
	if (flags & REQ_F_FIXED_FILE) /* in a table of the ring's own */
		return 0;
	LOAD(fd, request, OFF_io_kiocb__fd);
	READ(address, request, OFF_io_connect__addr);
	READ(length, request, OFF_io_connect__addr_len);
	open_call(file_of(fd), address, length, true);
	return 0;
}

/* The tracepoint's arguments are a ring, a request of it, and what is said of its end. */
int ring_completes(u64 *ctx)
{
	u64 request, completion, at = 0; /* `at` by turns, for want of room on the stack */
	s32 result;

	LOAD(request, ctx, 8);
	READ(at, request, OFF_io_kiocb__opcode);
	if (*(u8 *)&at != IORING_OP_CONNECT)
		return 0;
	LOAD(completion, ctx, 16);
	LOAD(result, completion, OFF_io_uring_cqe__res);
	READ(at, request, OFF_io_kiocb__file);
	READ(at, at, OFF_file__private_data);
	READ(at, at, OFF_socket__sk);
	close_call(at, result, OTHER_CALL_HOOK);
	return 0;
}
#endif

#if OTC_CALLS == OTC_CALLS_BY_FUNCTION
/* The arguments of __sys_connect_file(): the file, the address in the kernel's memory, its length, flags. */
int connect_enters(u64 *ctx)
{
	u64 file = 0, address = 0, length = 0;

	LOAD(file, ctx, 0);
	LOAD(address, ctx, 8);
	LOAD(length, ctx, 16);
	open_call(file, address, length, false);
	return 0;
}

/* The same, and what it returned. */
int connect_returns(u64 *ctx)
{
	u64 returned = 0;

	LOAD(returned, ctx, 32);
	close_call(bpf_get_current_pid_tgid(), returned, CALL_HOOK);
	return 0;
}

/*
 * The arguments of tcp_sendmsg_fastopen(): the socket, the message, what was copied, its size, and one more. It
 * connects to the address of the message (MSG_FASTOPEN), unless connect() has left that to it.
 */
int send_enters(u64 *ctx)
{
	u64 sk = 0, socket = 0, file = 0, message = 0, address = 0;
	u32 length = 0;

	LOAD(sk, ctx, 0);
	LOAD(socket, sk, OFF_sock__sk_socket);
	LOAD(file, socket, OFF_socket__file);
	LOAD(message, ctx, 8);
	LOAD(address, message, OFF_msghdr__msg_name);
	LOAD(length, message, OFF_msghdr__msg_namelen);
	open_call(file, address, length, false);
	return 0;
}

int send_returns(u64 *ctx)
{
	u64 returned = 0;

	LOAD(returned, ctx, 40);
	close_call(bpf_get_current_pid_tgid(), returned, OTHER_CALL_HOOK);
	return 0;
}
#endif

/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * connect() calls, each from its beginning to its return: what the state hook cannot see of an attempt.
 */

/* One connect() call of one thread. */
struct call {
	u64 enter_ns;
	u64 sk;       /* the socket of the descriptor */
	u64 attempt;  /* the sk that went to SYN_SENT inside this call: an MPTCP subflow's differs */
	u64 sockaddr; /* a pointer: to the caller's memory, or for OTC_CALLS_BY_FUNCTION the kernel's */
	u32 length;
	u16 protocol;
	u16 requested_family;
	u16 requested_port;
	u8 flags;
	u8 padding;
	u8 requested_address[16];
};

/*
 * Thread -> its connect() call; socket -> the request of io_uring to connect it. Inserted as it begins, deleted
 * as it returns, which it also does on SIGKILL.
 */
BPF_HASH(calls, u64, struct call, 16384);

/* The beginning of a struct socket, and that of its struct sock, each read at once. */
struct head {
	u8 socket[OTC_SOCKET_BYTES] __attribute__((aligned(8)));
	u8 sock[OTC_SOCK_BYTES] __attribute__((aligned(8)));
};

/* The file of a descriptor of this task, or 0. */
static __always_inline u64 file_of(u32 fd)
{
	u64 task = current_task(), files = 0, table = 0, array = 0, file = 0;
	u32 size = 0;

	LOAD_TASK(files, task, OFF_task_struct__files);
	LOAD_TASK(table, files, OFF_files_struct__fdt);
	LOAD_TASK(size, table, OFF_fdtable__max_fds);
	if (fd >= size)
		return 0;
	LOAD_TASK(array, table, OFF_fdtable__fd);
	READ(file, array, fd * sizeof(u64));
	return file;
}

/* Read the socket of a file; false if it is none. */
static __always_inline bool read_socket(struct head *head, u64 file)
{
	u64 socket = 0;

	if (!file)
		return false;
	READ(socket, file, OFF_file__private_data);
	if (!socket || bpf_probe_read_kernel(head->socket, OTC_SOCKET_BYTES, (void *)socket))
		return false;
	if (OF(head->socket, OFF_socket__file, u64) != file) /* only a socket's private data points back */
		return false;
	return !bpf_probe_read_kernel(head->sock, OTC_SOCK_BYTES,
				      (void *)OF(head->socket, OFF_socket__sk, u64));
}

/* Copy the address that the caller asks for, if its memory can be read now. */
static __always_inline void read_requested(struct call *call)
{
	u8 address[24] =
		{}; /* a sockaddr_in6 up to its scope; a sockaddr_in has 16 and may end at an unmapped page */
	long failed;

	if (call->length < 16)
		return;
	if (OTC_CALLS == OTC_CALLS_BY_FUNCTION) /* it has a struct sockaddr_storage */
		failed = bpf_probe_read_kernel(address, 24, (void *)call->sockaddr);
	else if (call->length >= 24) /* SIN6_LEN_RFC2133: the kernel does without the scope */
		failed = bpf_probe_read_user(address, 24, (void *)call->sockaddr);
	else
		failed = bpf_probe_read_user(address, 16, (void *)call->sockaddr);
	if (failed)
		return;
	__builtin_memcpy(&call->requested_family, address, 2);
	if (call->requested_family == OTC_AF_INET6 && call->length < 24) /* EINVAL, whatever it says */
		return;
	__builtin_memcpy(&call->requested_port, address + 2, 2);
	if (call->requested_family == OTC_AF_INET6)
		__builtin_memcpy(call->requested_address, address + 8, 16);
	else
		__builtin_memcpy(call->requested_address, address + 4, 4);
	call->flags |= OTC_FLAG_REQUESTED;
}

/*
 * Whether another thread has begun an attempt on the socket since this call began, so that the error of this
 * call is that attempt's: a socket without a connection sends nothing but a SYN. An MPTCP socket sends it by
 * its first subflow.
 */
static __always_inline bool reports_another(struct call *call)
{
	u64 sk = call->sk, sent_ns = 0;

	if (call->protocol == IPPROTO_MPTCP)
		READ(sk, call->sk, OFF_mptcp_sock__first);
	READ(sent_ns, sk, OFF_tcp_sock__tcp_wstamp_ns);
	return sent_ns >= call->enter_ns;
}

/* A connect() call begins, or a request of io_uring, on a socket of TCP or MPTCP without an attempt. */
static __always_inline void open_call(u64 file, u64 sockaddr, u32 length, bool ring)
{
	u64 thread = bpf_get_current_pid_tgid(), key = thread;
	struct otc_counters *count;
	struct call call = {};
	struct head head;
	u8 tcp_state = 0;
	u16 family;
	u32 state;

	if (thread >> 32 == OTC_OWN_PID)
		return;
	if (!read_socket(&head, file))
		return;
	family = OF(head.sock, OFF_sock__skc_family, u16);
	if (family != OTC_AF_INET && family != OTC_AF_INET6)
		return;
	if (OF(head.socket, OFF_socket__type, u16) != SOCK_STREAM)
		return;
	call.sk = OF(head.socket, OFF_socket__sk, u64);
	if (ring)
		key = call.sk;
	READ(call.protocol, call.sk, OFF_sock__sk_protocol);
	if (call.protocol != OTC_IPPROTO_TCP && call.protocol != IPPROTO_MPTCP)
		return;
	call.enter_ns = bpf_ktime_get_ns(); /* before the state, so that no beginning is between the two */
	READ(tcp_state, call.sk, OFF_sock__skc_state);
	state = OF(head.socket, OFF_socket__state, u32);
	/* io_uring tries once more where the socket still says that an attempt is pending which has ended */
	if ((state != SS_UNCONNECTED && !(ring && state == SS_CONNECTING)) || tcp_state != TCP_CLOSE) {
		/* asks after a pending attempt, or is EISCONN; nothing stale may answer for it */
		calls.delete(&key);
		return;
	}
	call.sockaddr = sockaddr;
	call.length = length;
	if (call.protocol == IPPROTO_MPTCP)
		call.flags |= OTC_FLAG_MPTCP;
	read_requested(&call);
	count = this_cpu_counters();
	if (count && calls.update(&key, &call))
		COUNT(count->call_full);
}

/* The call of this thread, or the request on this socket, or 0. */
static __always_inline struct call *call_of(u64 thread, u64 sk)
{
	struct call *call = OTC_CALLS ? calls.lookup(&thread) : 0;

	return call || !OTC_RINGS ? call : calls.lookup(&sk);
}

static __always_inline void fill_call(struct otc_event *event, struct call *call)
{
	event->hooks |= OTC_HOOK_ENTER;
	event->flags |= call->flags;
	event->requested_family = call->requested_family;
	event->requested_port = call->requested_port;
	__builtin_memcpy(event->requested_address, call->requested_address, 16);
}

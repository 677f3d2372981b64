/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * What is followed of an attempt: how it begins, how it ends, by the state hook or by what connect() returned,
 * and where it goes then.
 */

/*
 * sk pointer -> the attempt in progress on it. Inserted at CLOSE -> SYN_SENT, deleted at its end; what
 * a missed end leaves behind is deleted by the agent when it is stale, or replaced when the kernel
 * hands the same memory to a new socket. Not an LRU: that would drop attempts in silence.
 */
BPF_HASH(in_progress, u64, struct otc_event, OTC_MAX_IN_PROGRESS);

/* An attempt that has ended gets a record, or is counted with those like it. */
static __always_inline void emit(struct otc_counters *count, struct otc_event *event)
{
	u8 withheld = filtered(event) ? OTC_FILTERED : withhold(event);

	if (withheld == OTC_FILTERED) {
		COUNT(count->filtered);
	} else if (withheld) {
		COUNT(count->throttled);
	} else if (events.ringbuf_output(event, sizeof(*event), OTC_NO_WAKEUP) < 0) {
		COUNT(count->ring_full);
		withheld = OTC_RING_FULL;
	} else {
		COUNT(count->emitted);
		return;
	}
	tally(count, event, withheld);
}

/* An MPTCP socket is seen by its subflows, which are TCP. */
static __always_inline bool is_tcp(u64 sk)
{
	u16 protocol = 0;

	READ(protocol, sk, OFF_sock__sk_protocol);
	return protocol == OTC_IPPROTO_TCP;
}

/* Where from and to: valid from SYN_SENT on, but for the local port, which is chosen a little later. */
static __always_inline void fill_addresses(struct otc_event *event, u64 sk)
{
	u64 net = 0;

	READ(event->family, sk, OFF_sock__skc_family);
	READ(event->local_port, sk, OFF_inet_sock__inet_sport);
	READ(event->peer_port, sk, OFF_sock__skc_dport);
	READ(net, sk, OFF_sock__skc_net);
	READ(event->netns, net, OFF_net__inum);
	if (event->family == OTC_AF_INET6) {
		/* the v4 fields of a native v6 socket hold garbage */
		READ(event->local_address, sk, OFF_sock__skc_v6_rcv_saddr);
		READ(event->peer_address, sk, OFF_sock__skc_v6_daddr);
	} else {
		bpf_probe_read_kernel(event->local_address, 4, (void *)(sk + OFF_sock__skc_rcv_saddr));
		bpf_probe_read_kernel(event->peer_address, 4, (void *)(sk + OFF_sock__skc_daddr));
	}
}

static __always_inline void fill_blocking(struct otc_event *event, u64 sk)
{
	u64 socket = 0, file = 0;
	u32 flags = 0;

	READ(socket, sk, OFF_sock__sk_socket);
	if (!socket)
		return;
	READ(file, socket, OFF_socket__file);
	if (!file) /* kernel sockets and MPTCP subflows */
		return;
	READ(flags, file, OFF_file__f_flags);
	event->flags |= OTC_FLAG_BLOCKING_KNOWN;
	if (flags & O_NONBLOCK)
		event->flags |= OTC_FLAG_NONBLOCKING;
}

/* What the socket says at the end of its attempt. */
static __always_inline void fill_end(struct otc_event *event, u64 sk)
{
	u64 socket = 0;
	u32 soft = 0, state = 0, total = 0;
	u8 unanswered = 0;

	event->end_ns = bpf_ktime_get_ns();
	event->hooks |= OTC_HOOK_END;
	fill_addresses(event, sk);
	READ(event->sk_err, sk, OFF_sock__sk_err);
	READ(soft, sk, OFF_sock__sk_err_soft);
	if (soft)
		event->sk_err_soft = soft;
	READ(event->shutdown, sk, OFF_sock__sk_shutdown);
	READ(socket, sk, OFF_sock__sk_socket);
	if (socket)
		READ(state, socket, OFF_socket__state);
	event->socket_state = state;
	/* total_retrans lags while the neighbour is unresolved; icsk_retransmits is 0 once established */
	READ(total, sk, OFF_tcp_sock__total_retrans);
	READ(unanswered, sk, OFF_inet_connection_sock__icsk_retransmits);
	if (total < unanswered)
		total = unanswered;
	event->syn_retransmits = total > 255 ? 255 : total;
}

/* The sequence is exact because attempts begin in process context only, with preemption off. */
static __always_inline void number(struct otc_event *event, struct otc_counters *count)
{
	event->cpu = bpf_get_smp_processor_id();
	event->sequence = count->seen;
	COUNT(count->seen);
}

static __always_inline void begin(struct otc_counters *count, u64 sk)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct otc_event event = {};
	struct otc_event *unfinished;
	struct call *call;

	unfinished = in_progress.lookup(&sk);
	if (unfinished) {
		unfinished->ending = OTC_REPLACED;
		emit(count, unfinished);
		in_progress.delete(&sk);
	}
	if (thread >> 32 == OTC_OWN_PID) {
		COUNT(count->own);
		return;
	}
	event.start_ns = bpf_ktime_get_ns();
	event.hooks = OTC_HOOK_SYN_SENT;
	fill_process(&event);
	tell(&event);
	fill_addresses(&event, sk);
	fill_blocking(&event, sk);
	call = calls.lookup(&thread);
	if (call && call->protocol != OTC_IPPROTO_UDP) {
		call->attempt = sk;
		fill_call(&event, call);
	}
	number(&event, count);
	if (in_progress.update(&sk, &event))
		COUNT(count->pending_full);
}

static __always_inline void end(struct otc_counters *count, u64 sk, int old, int new, bool first)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct otc_event *event;
	struct call *call;

	event = in_progress.lookup(&sk);
	if (!event) {
		/* SYN_RECV: a server's socket */
		if (first && old == TCP_SYN_SENT && thread >> 32 != OTC_OWN_PID)
			COUNT(count->untracked);
		return;
	}
	fill_end(event, sk);
	if (new == TCP_ESTABLISHED) {
		event->ending = OTC_ESTABLISHED;
		READ(event->srtt_us, sk, OFF_tcp_sock__srtt_us);
		event->srtt_us >>= 3; /* kept in eighths */
	} else {
		event->ending = OTC_CLOSED;
		call = calls.lookup(&thread);
		if (!event->sk_err && call && call->attempt == sk) {
			/* connect() itself gave up, e.g. for want of a port: its return value says why */
			event->flags |= OTC_FLAG_CLOSED_IN_CALL;
			return;
		}
	}
	emit(count, event);
	in_progress.delete(&sk);
}

/* connect() failed before any SYN: the attempt is this call. */
static __always_inline void local_failure(struct otc_counters *count, struct call *call, int returned)
{
	struct otc_event event = {};
	u64 net = 0;

	event.start_ns = call->enter_ns;
	event.end_ns = bpf_ktime_get_ns();
	event.ending = OTC_RETURNED;
	event.returned = returned;
	if (!(call->flags & OTC_FLAG_REQUESTED))
		read_requested(call); /* the kernel has paged it in by now */
	fill_process(&event);
	tell(&event);
	fill_blocking(&event, call->sk);
	fill_call(&event, call);
	event.hooks |= OTC_HOOK_EXIT;
	READ(event.family, call->sk, OFF_sock__skc_family);
	READ(net, call->sk, OFF_sock__skc_net);
	READ(event.netns, net, OFF_net__inum);
	number(&event, count);
	emit(count, &event);
}

/* An error that user space gets, and that does not say that the attempt goes on. */
static __always_inline bool is_final(int error)
{
	return error > 0 && !(error >= ERESTART_FIRST && error <= ERESTART_LAST) && error != EINTR &&
	       error != EINPROGRESS && error != EALREADY && error != EISCONN;
}

/*
 * Whether connect() returns from the attempt that began in this very call on its own socket: then a final error
 * says that it is over, whether or not its end was seen. An MPTCP socket returns for all its subflows together.
 */
static __always_inline bool is_its_own(struct call *call, struct otc_event *event)
{
	return call->attempt == call->sk && event->start_ns >= call->enter_ns;
}

/* connect() returned for an attempt that the state hook saw begin. */
static __always_inline void returned_from(struct otc_counters *count, struct call *call, int returned)
{
	struct otc_event *event;
	u64 sk = call->attempt;
	u32 soft = 0;

	event = in_progress.lookup(&sk);
	/*
	 * Mostly it has ended: on loopback the whole handshake runs inside the call. If its memory serves a
	 * new attempt already, that is another thread's.
	 */
	if (!event || event->tid != (u32)bpf_get_current_pid_tgid())
		return;
	event->hooks |= OTC_HOOK_EXIT;
	event->returned = returned;
	if (event->flags & OTC_FLAG_CLOSED_IN_CALL || (is_final(-returned) && is_its_own(call, event))) {
		event->ending = OTC_RETURNED;
		if (!event->end_ns)
			event->end_ns = bpf_ktime_get_ns();
		emit(count, event);
		in_progress.delete(&sk);
		return;
	}
	/* an ICMP error that came while the socket was locked is only here, and gone once SO_ERROR is read */
	READ(soft, sk, OFF_sock__sk_err_soft);
	if (soft)
		event->sk_err_soft = soft;
}

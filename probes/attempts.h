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
BPF_HASH(in_progress, u64, struct otc_attempt, OTC_MAX_IN_PROGRESS);

/*
 * The key is a copy: to the verifier of Linux 6.12, a pointer that a helper function was given the address of
 * is a number from then on, and nothing can be loaded through it.
 */
static __always_inline struct otc_attempt *attempt_on(u64 sk)
{
	return in_progress.lookup(&sk);
}

static __always_inline void forget(u64 sk)
{
	in_progress.delete(&sk);
}

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

	LOAD(protocol, sk, OFF_sock__sk_protocol);
	return protocol == OTC_IPPROTO_TCP;
}

/* The same socket by its whole type, whose members the verifier knows; 0 if it is none of TCP. */
static __always_inline u64 tcp_sock(u64 sk)
{
	return (u64)bpf_skc_to_tcp_sock((void *)sk);
}

/*
 * Whether it is a further subflow of an MPTCP connection (MP_JOIN). That is no attempt: no program connects it,
 * but the kernel, or a daemon that manages paths.
 */
static __always_inline bool is_join(u64 tcp)
{
	u64 subflow = 0;
	u8 bits = 0;

	if (!OTC_MPTCP || !tcp)
		return false;
	/* no other protocol (ULP) is on a socket that has no connection yet */
	LOAD(subflow, tcp, OFF_inet_connection_sock__icsk_ulp_data);
	if (!subflow)
		return false;
	READ(bits, subflow, OFF_mptcp_subflow_context__request_join);
	return bits & BIT_mptcp_subflow_context__request_join;
}

/* Where to: valid from SYN_SENT on. */
static __always_inline void fill_peer(struct otc_event *event, u64 sk)
{
	u64 net = 0;

	LOAD(event->family, sk, OFF_sock__skc_family);
	LOAD(event->peer_port, sk, OFF_sock__skc_dport);
	LOAD(net, sk, OFF_sock__skc_net);
	LOAD(event->netns, net, OFF_net__inum);
	if (event->family == OTC_AF_INET6) /* the v4 fields of a native v6 socket hold garbage */
		LOAD_ADDRESS(event->peer_address, sk, OFF_sock__skc_v6_daddr);
	else
		LOAD(*(u32 *)event->peer_address, sk, OFF_sock__skc_daddr);
}

/* Where from, but for the port. */
static __always_inline void fill_local(struct otc_event *event, u64 sk)
{
	if (event->family == OTC_AF_INET6)
		LOAD_ADDRESS(event->local_address, sk, OFF_sock__skc_v6_rcv_saddr);
	else
		LOAD(*(u32 *)event->local_address, sk, OFF_sock__skc_rcv_saddr);
}

/* `typed`: whether the verifier knows that it is a socket. */
static __always_inline void fill_blocking(struct otc_event *event, u64 sk, bool typed)
{
	u64 socket = 0, file = 0;
	u32 flags = 0;

	LOAD_IF(typed, socket, sk, OFF_sock__sk_socket);
	if (!socket)
		return;
	LOAD_IF(typed, file, socket, OFF_socket__file);
	if (!file) /* kernel sockets and MPTCP subflows */
		return;
	LOAD_IF(typed, flags, file, OFF_file__f_flags);
	event->flags |= OTC_FLAG_BLOCKING_KNOWN;
	if (flags & O_NONBLOCK)
		event->flags |= OTC_FLAG_NONBLOCKING;
}

/*
 * An attempt begins when its SYN leaves. A deferred one (TCP_FASTOPEN_CONNECT) leaves long after SYN_SENT, with
 * the first write. The kernel has the time of the last segment sent and, as long as there was no answer, that
 * of the first SYN, in milliseconds of the same clock, of which it keeps 32 bits.
 */
static __always_inline void fill_start(struct otc_event *event, u64 tcp)
{
	u64 now_ms = event->end_ns / 1000000, sent_ns = 0;
	u32 stamp_ms = 0;

	if (!event->syn_retransmits) {
		LOAD(sent_ns, tcp, OFF_tcp_sock__tcp_wstamp_ns);
	} else {
		LOAD(stamp_ms, tcp, OFF_tcp_sock__retrans_stamp);
		if (stamp_ms)
			sent_ns = (now_ms - (u32)((u32)now_ms - stamp_ms)) * 1000000;
	}
	if (sent_ns > event->start_ns && sent_ns < event->end_ns)
		event->start_ns = sent_ns;
}

/* What the socket says at the end of its attempt; returns whether a SYN was sent. */
static __always_inline bool fill_end(struct otc_event *event, u64 sk, u64 tcp, int old)
{
	u32 sent = 0, total = 0;
	u8 unanswered = 0;

	event->end_ns = bpf_ktime_get_ns();
	event->hooks |= OTC_HOOK_END;
	LOAD(sent, tcp, OFF_tcp_sock__segs_out); /* 0 at the beginning of every attempt, like total_retrans */
	if (!sent)
		return false;
	fill_local(event, sk);
	LOAD(event->local_port, tcp,
	     OFF_inet_sock__inet_sport); /* skc_num is given back before a close is seen */
	/* total_retrans lags while the neighbour is unresolved; icsk_retransmits is 0 once established */
	LOAD(total, tcp, OFF_tcp_sock__total_retrans);
	LOAD(unanswered, tcp, OFF_inet_connection_sock__icsk_retransmits);
	if (total < unanswered)
		total = unanswered;
	event->syn_retransmits = total > 255 ? 255 : total;
	if (old == TCP_SYN_SENT) /* in a simultaneous open the last segment was an answer */
		fill_start(event, tcp);
	return true;
}

/*
 * The ICMP error that has been queued last since the attempt began, or 0. Of IPv4 each is queued before it
 * acts, since Linux 5.10; of IPv6 only with IPV6_RECVERR.
 */
static __always_inline s32 queued_error(struct otc_attempt *attempt, u64 sk)
{
	u64 newest = 0;
	u32 number = 0;
	u8 origin = 0;

	LOAD(newest, sk, OFF_sock__sk_error_queue_prev);
	if (newest == attempt->newest_error || newest == sk + OFF_sock__sk_error_queue)
		return 0;
	LOAD(origin, newest, OFF_sk_buff__cb + OFF_sock_exterr_skb__ee_origin);
	if (origin != OTC_ORIGIN_ICMP && origin != OTC_ORIGIN_ICMP + 1)
		return 0;
	LOAD(number, newest, OFF_sk_buff__cb + OFF_sock_exterr_skb__ee_errno);
	return number;
}

/*
 * Why it closed. sk_err may be gone: whoever is woken may take it by SO_ERROR, without the lock, before the
 * state changes. Then the mark of a RST (note_reset) and the error queue still have it. Nothing of this may be
 * from an earlier attempt: the kernel resets sk_err just before the SYN.
 */
static __always_inline void fill_cause(struct otc_attempt *attempt, u64 sk, bool sent)
{
	struct otc_event *event = &attempt->event;
	u32 error = 0, soft = 0, state = 0, locked = 0;
	u64 socket = 0;
	s32 queued;

	LOAD(locked, sk, OFF_sock__sk_lock_owned);
	if (locked)
		event->flags |= OTC_FLAG_LOCKED;
	LOAD(error, sk, OFF_sock__sk_err);
	if (error && (sent || !locked))
		event->sk_err = error;
	LOAD(soft, sk, OFF_sock__sk_err_soft);
	if (soft)
		event->sk_err_soft = soft == attempt->soft_error ? -soft : soft;
	if (!event->sk_err && event->sk_err_soft <= 0) {
		queued = queued_error(attempt, sk);
		if (queued)
			event->sk_err_soft = queued;
	}
	LOAD(event->shutdown, sk, OFF_sock__sk_shutdown);
	LOAD(socket, sk, OFF_sock__sk_socket);
	if (socket)
		LOAD(state, socket, OFF_socket__state);
	event->socket_state = state;
}

/* Recorder -> how many attempts it has recorded on this CPU. */
BPF_PERCPU_ARRAY(recorded, u64, RECORDERS);

/* Number an attempt: what a recorder has recorded before it on this CPU, and in the lowest bits which one. */
static __always_inline void number(struct otc_event *event, struct otc_counters *count, enum recorder recorder)
{
	int place = recorder;
	u64 *before = recorded.lookup(&place);

	event->cpu = bpf_get_smp_processor_id();
	if (before)
		event->sequence = (*before)++ << 2 | recorder;
	COUNT(count->seen);
}

static __always_inline void begin(struct otc_counters *count, u64 sk)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct otc_attempt attempt = {}, *unfinished;
	struct otc_event *event = &attempt.event;
	struct call *call;
	u64 key = sk;
	u16 bound = 0;

	unfinished = attempt_on(sk);
	if (unfinished) {
		unfinished->event.ending = OTC_REPLACED;
		emit(count, &unfinished->event);
		forget(sk);
	}
	if (thread >> 32 == OTC_OWN_PID) {
		COUNT(count->own);
		return;
	}
	if (is_join(tcp_sock(sk)))
		return;
	event->start_ns = bpf_ktime_get_ns();
	event->hooks = OTC_HOOK_SYN_SENT;
	fill_process(event);
	tell(event, STATE_HOOK);
	fill_peer(event, sk);
	fill_local(event, sk);
	LOAD(bound, sk, OFF_sock__skc_num); /* 0 if the port is still to be chosen, whatever inet_sport says */
	event->local_port = network_order(bound);
	fill_blocking(event, sk, true);
	LOAD(attempt.newest_error, sk, OFF_sock__sk_error_queue_prev);
	LOAD(attempt.soft_error, sk, OFF_sock__sk_err_soft);
	call = call_of(thread, sk);
	if (call) {
		call->attempt = sk;
		fill_call(event, call);
	}
	number(event, count, STATE_HOOK);
	if (in_progress.update(&key, &attempt))
		COUNT(count->pending_full);
}

/* A RST is about to end an attempt: the errno that it is for the socket, as in tcp_reset(). */
static __always_inline void note_reset(u64 sk)
{
	struct otc_attempt *attempt;
	u8 state = 0;

	LOAD(state, sk, OFF_sock__skc_state);
	if (state != TCP_SYN_SENT && state != TCP_SYN_RECV)
		return;
	attempt = attempt_on(sk);
	if (!attempt)
		return;
	attempt->event.hooks |= OTC_HOOK_RESET;
	attempt->event.sk_err = state == TCP_SYN_SENT ? ECONNREFUSED : ECONNRESET;
}

/*
 * This host drops a packet. If it is the SYN of an attempt, or an answer whose socket the kernel has found
 * already, note why, and how many in the same direction. A drop without a reason proves nothing: drivers free
 * in the same way what they have sent.
 */
static __always_inline void note_drop(u64 skb, u32 reason)
{
	struct otc_attempt *attempt;
	struct otc_event *event;
	u32 interface = 0;
	u64 sk = 0;
	u8 state = 0;

	LOAD(sk, skb, OFF_sk_buff__sk);
	if (!sk)
		return;
	LOAD(state, sk, OFF_sock__skc_state);
	if (state != TCP_SYN_SENT || reason == OTC_DROP_NOT_SPECIFIED)
		return;
	attempt = attempt_on(sk);
	if (!attempt)
		return;
	LOAD(interface, skb, OFF_sk_buff__skb_iif); /* that it came in by; 0: none */
	event = &attempt->event;
	if (event->drop_received != (interface != 0))
		event->drops = 0;
	event->drop_received = interface != 0;
	event->drop_reason = reason;
	if (event->drops < 255)
		event->drops++;
}

/*
 * Whether there was no attempt: the application ended what had not sent a SYN yet, or the kernel was told that
 * there is a connection (TCP_REPAIR). What connect() itself ended has a cause of its own.
 */
static __always_inline bool is_unsent(struct otc_event *event)
{
	if (event->ending == OTC_ESTABLISHED)
		return true;
	return event->flags & OTC_FLAG_LOCKED &&
	       (event->socket_state != SS_UNCONNECTED || event->shutdown == OTC_SHUT_BOTH);
}

static __always_inline void end(struct otc_counters *count, u64 sk, int old, int new, bool first)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct otc_attempt *attempt;
	struct otc_event *event;
	struct call *call;
	u64 tcp = tcp_sock(sk);
	bool sent;

	if (!tcp)
		return;
	attempt = attempt_on(sk);
	if (!attempt) {
		/* SYN_RECV: a server's socket */
		if (first && old == TCP_SYN_SENT && thread >> 32 != OTC_OWN_PID && !is_join(tcp))
			COUNT(count->untracked);
		return;
	}
	event = &attempt->event;
	sent = fill_end(event, sk, tcp, old);
	if (new == TCP_ESTABLISHED) {
		event->ending = OTC_ESTABLISHED;
		LOAD(event->srtt_us, tcp, OFF_tcp_sock__srtt_us);
		event->srtt_us >>= 3; /* kept in eighths */
	} else {
		event->ending = OTC_CLOSED;
		fill_cause(attempt, sk, sent);
		call = call_of(thread, sk);
		if (!event->sk_err && event->flags & OTC_FLAG_LOCKED && call && call->attempt == sk) {
			/* connect() itself gave up: its return value says why, no port for example */
			event->flags |= OTC_FLAG_CLOSED_IN_CALL;
			return;
		}
	}
	if (!sent && is_unsent(event))
		COUNT(count->unsent);
	else
		emit(count, event);
	forget(sk);
}

/* connect() failed before any SYN: the attempt is this call. */
static __always_inline void local_failure(struct otc_counters *count, struct call *call, int returned,
					  enum recorder recorder)
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
	tell(&event, recorder);
	fill_blocking(&event, call->sk, false);
	fill_call(&event, call);
	event.hooks |= OTC_HOOK_EXIT;
	READ(event.family, call->sk, OFF_sock__skc_family);
	READ(net, call->sk, OFF_sock__skc_net);
	READ(event.netns, net, OFF_net__inum);
	number(&event, count, recorder);
	emit(count, &event);
}

/* An error that user space gets, and that does not say that the attempt goes on. */
static __always_inline bool is_final(int error)
{
	return error > 0 && !(error >= ERESTART_FIRST && error <= ERESTART_LAST) && error != EINTR &&
	       error != EINPROGRESS && error != EALREADY && error != EISCONN && error != ECANCELED;
}

/*
 * Whether connect() returns from the attempt that began in this very call on its own socket: then a final error
 * says that it is over, whether or not its end was seen. An MPTCP socket returns for all its subflows together.
 */
static __always_inline bool is_its_own(struct call *call, struct otc_event *event)
{
	return call->attempt == call->sk && event->start_ns >= call->enter_ns;
}

/*
 * Whether the end is still to come, or the state hook is at it: the state is stored after that has run. A
 * request of io_uring is woken before by an ICMP error, and may be completed on another processor meanwhile.
 * Who reads that the state is another one, and then finds the attempt, knows that the hook has missed its end.
 */
static __always_inline bool is_pending(u8 state)
{
	return state == TCP_SYN_SENT || state == TCP_SYN_RECV;
}

/* connect() returned for an attempt that the state hook saw begin. */
static __always_inline void returned_from(struct otc_counters *count, struct call *call, int returned,
					  bool ring)
{
	struct otc_attempt *attempt;
	struct otc_event *event;
	u64 sk = call->attempt;
	u32 soft = 0;
	u8 state = 0;

	READ(state, sk, OFF_sock__skc_state); /* before the look-up: see is_pending() */
	attempt = attempt_on(sk);
	if (!attempt)
		return;
	event = &attempt->event;
	/*
	 * Mostly it has ended: on loopback the whole handshake runs inside the call. If its memory serves a
	 * new attempt already, that is another thread's.
	 */
	if (!ring && event->tid != (u32)bpf_get_current_pid_tgid())
		return;
	event->hooks |= OTC_HOOK_EXIT;
	event->returned = returned;
	if (event->flags & OTC_FLAG_CLOSED_IN_CALL ||
	    (is_final(-returned) && is_its_own(call, event) && !is_pending(state))) {
		event->ending = OTC_RETURNED;
		if (!event->end_ns)
			event->end_ns = bpf_ktime_get_ns();
		emit(count, event);
		forget(sk);
		return;
	}
	/* an ICMPv6 error that came while the socket was locked is only here, and gone once SO_ERROR is read */
	READ(soft, sk, OFF_sock__sk_err_soft);
	if (soft && soft != attempt->soft_error)
		event->sk_err_soft = soft;
	if (!returned && state == TCP_SYN_SENT)
		event->flags |= OTC_FLAG_DEFERRED;
}

/* A connect() call, or a request of io_uring, returns. */
static __always_inline void close_call(u64 key, int returned, enum recorder recorder)
{
	struct otc_counters *count;
	struct call *call;

	call = calls.lookup(&key);
	if (!call)
		return;
	count = this_cpu_counters();
	if (!count)
		return;
	if (call->attempt)
		returned_from(count, call, returned, call->sk == key);
	else if (is_final(-returned) && !reports_another(call))
		local_failure(count, call, returned, recorder);
	calls.delete(&key);
}

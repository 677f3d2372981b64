/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * Who asks name servers: processes that connect a datagram socket to port 53
 * (docs/decisions/0034-names-from-dns.md).
 */

#define OTC_DNS_PORT (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 0x3500 : 53)

/* Whether a datagram socket is being connected to a name server: all that is read of other ones is a port. */
static __always_inline bool is_asker(struct call *call, u64 sockaddr, u32 length)
{
	u16 port = 0;

	if (!OTC_ASKERS || call->protocol != OTC_IPPROTO_UDP || length < 16)
		return false;
	return !bpf_probe_read_user(&port, sizeof(port), (void *)(sockaddr + 2)) && port == OTC_DNS_PORT;
}

/* Tell the agent who will ask; not while it is behind, for attempts come first. */
static __always_inline void tell_asker(struct otc_counters *count, u64 sk)
{
	struct otc_event socket = {};
	struct otc_asker asker = {};
	u64 net = 0;
	int zero = 0;
	void *queue;

	queue = ring.lookup(&zero);
	if (!queue || half_full(queue)) {
		COUNT(count->askers_lost);
		return;
	}
	fill_process(&socket);
	asker.process_start_ns = socket.process_start_ns;
	asker.at_ns = bpf_ktime_get_ns();
	asker.pid = socket.pid;
	READ(net, sk, OFF_sock__skc_net);
	READ(asker.netns, net, OFF_net__inum);
	READ(asker.family, sk, OFF_sock__skc_family);
	READ(asker.local_port, sk, OFF_inet_sock__inet_sport);
	if (asker.family == OTC_AF_INET6) {
		READ(asker.local_address, sk, OFF_sock__skc_v6_rcv_saddr);
		READ(asker.peer_address, sk, OFF_sock__skc_v6_daddr);
	} else {
		bpf_probe_read_kernel(asker.local_address, 4, (void *)(sk + OFF_sock__skc_rcv_saddr));
		bpf_probe_read_kernel(asker.peer_address, 4, (void *)(sk + OFF_sock__skc_daddr));
	}
	if (events.ringbuf_output(&asker, sizeof(asker), OTC_NO_WAKEUP) < 0)
		COUNT(count->askers_lost);
}

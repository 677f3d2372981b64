/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * What passes between programs and name servers (docs/decisions/0064-names-without-packet-sockets.md). The
 * whole packet goes to the agent through a perf buffer: bpf_skb_output() is the only way, on every kernel, to
 * the bytes that a packet has in pages.
 */

#define OTC_DNS_PORT     53
#define OTC_PACKET_BYTES 16640         /* of a packet: the longest message that is read, and its headers */
#define OTC_CURRENT_CPU  0xffffffffULL /* BPF_F_CURRENT_CPU */
#define OTC_ETH_P_IP     0x0800
#define OTC_ETH_P_IPV6   0x86dd
#define OTC_IFF_LOOPBACK 8
#define OTC_DOCKER       0x7f00000b /* 127.0.0.11: what asks it on port 53 is sent to another port */
#define OTC_THREAD_BYTES (16 << 10) /* THREAD_SIZE of x86-64 */
#define OTC_NOT_IN_TASK  0x00ff0100 /* of preempt_count: NMIs, hard interrupts, a softirq that is served */

/*
 * Port -> whether questions to port 53 are sent there, by an address translation of this host. A byte for each,
 * because two CPUs may set neighbours at one time, and before Linux 5.12 there is no atomic OR.
 */
struct port_flags {
	u8 of[64];
};
BPF_ARRAY(translated_ports, struct port_flags, 1024);

/* What of a packet's headers is looked at here. */
struct ports {
	u16 source;
	u16 destination;
	u32 server; /* the destination, of IPv4 */
};

/* Where the stack pointer is put down for a moment, so that it may be compared. */
BPF_PERCPU_ARRAY(scratch, u64, 1);

/*
 * Whether this runs in a system call of the current task, and not in an interrupt that happens to have come
 * meanwhile. On most machines the task says it. On x86 an interrupt, like a softirq, has a stack of its own,
 * unless it came from user space; then the registers that were saved have no number of a system call. The
 * context of a program is on the stack.
 */
static __always_inline bool in_task(u64 *ctx)
{
	u64 task = current_task(), stack = 0, here = 0, *slot;
	s64 call = -1;
	u32 count = 0, flags = 0;
	int zero = 0;

	LOAD_TASK(flags, task, OFF_task_struct__flags);
	if (flags & PF_KTHREAD)
		return false;
	if (OTC_PREEMPT_COUNT) {
		LOAD_TASK(count, task, OFF_preempt_count);
		return !(count & OTC_NOT_IN_TASK);
	}
	slot = scratch.lookup(&zero);
	if (!slot)
		return false;
	asm volatile("*(u64 *)(%0 + 0) = %1" : : "r"(slot), "r"(ctx) : "memory");
	asm volatile("%0 = *(u64 *)(%1 + 0)" : "=r"(here) : "r"(slot) : "memory");
	LOAD_TASK(stack, task, OFF_task_struct__stack);
	if (!OTC_CALL_NUMBER || here - stack >= OTC_THREAD_BYTES)
		return false;
	if (OTC_TASK_REGISTERS)
		LOAD(call, bpf_task_pt_regs((void *)task), OFF_pt_regs__orig_ax);
	else
		READ(call, stack + OTC_THREAD_BYTES - OTC_REGISTERS_BYTES, OFF_pt_regs__orig_ax);
	return call >= 0;
}

/* The ports of a packet of UDP or TCP at its IP header; false if it is none, or a later fragment. */
static __always_inline bool read_ports(struct ports *ports, u64 skb, u64 header)
{
	u8 bytes[44] = {};
	u16 protocol = 0;
	u32 length;

	LOAD(protocol, skb, OFF_sk_buff__protocol);
	protocol = network_order(protocol);
	if (protocol == OTC_ETH_P_IP) {
		if (bpf_probe_read_kernel(bytes, 24, (void *)header))
			return false;
		length = (bytes[0] & 15) * 4;
		if ((bytes[6] & 31) || bytes[7])
			return false;
		if (bytes[9] != OTC_IPPROTO_UDP && bytes[9] != OTC_IPPROTO_TCP)
			return false;
		__builtin_memcpy(&ports->server, bytes + 16, 4);
		if (length == 20)
			__builtin_memcpy(ports, bytes + 20, 4);
		else if (bpf_probe_read_kernel(ports, 4, (void *)(header + length)))
			return false;
	} else if (protocol == OTC_ETH_P_IPV6) {
		if (bpf_probe_read_kernel(bytes, 44, (void *)header))
			return false;
		if (bytes[6] != OTC_IPPROTO_UDP && bytes[6] != OTC_IPPROTO_TCP)
			return false;
		__builtin_memcpy(ports, bytes + 40, 4);
	} else {
		return false;
	}
	ports->source = network_order(ports->source);
	ports->destination = network_order(ports->destination);
	return true;
}

/* The question's packet may have another destination by now than its socket: say both. The port was 53. */
static __always_inline void fill_dialled(struct otc_packet *packet, u64 sk)
{
	LOAD(packet->dialled_family, sk, OFF_sock__skc_family);
	if (packet->dialled_family == OTC_AF_INET6)
		LOAD_ADDRESS(packet->dialled_address, sk, OFF_sock__skc_v6_daddr);
	else
		LOAD(*(u32 *)packet->dialled_address, sk, OFF_sock__skc_daddr);
}

/* Who asks. A packet that had to wait for its neighbour's address is sent by whoever is interrupted then. */
static __always_inline void fill_asker(struct otc_packet *packet, u64 *ctx)
{
	u64 task = current_task(), leader = 0;

	if (!in_task(ctx))
		return;
	packet->pid = bpf_get_current_pid_tgid() >> 32;
	LOAD_TASK(leader, task, OFF_task_struct__group_leader);
	LOAD_TASK(packet->process_start_ns, leader, OFF_task_struct__start_boottime);
}

/* `from`: where its bytes begin, `header`: where its IP header is. */
static __always_inline void send_packet(struct otc_packet *packet, u64 skb, u64 from, u64 header)
{
	struct otc_counters *count;
	u64 buffers = 0, length = 0;
	u32 bytes = 0;

	LOAD(bytes, skb, OFF_sk_buff__len);
	length = bytes;
	if (length > OTC_PACKET_BYTES)
		length = OTC_PACKET_BYTES;
	packet->at_ns = bpf_ktime_get_ns();
	packet->header = header - from;
	packet->length = length;
	LINK(buffers, LINK_PACKETS);
	if (!bpf_skb_output((void *)skb, (void *)buffers, length << 32 | OTC_CURRENT_CPU, packet,
			    sizeof(*packet)))
		return;
	count = this_cpu_counters();
	if (count)
		COUNT(count->packets_lost);
}

static __always_inline bool is_loopback(u64 device)
{
	u32 flags = 0;

	LOAD(flags, device, OFF_net_device__flags);
	return flags & OTC_IFF_LOOPBACK;
}

/* An answer is of the network namespace that it is received in. */
static __always_inline void send_answer(u64 skb, u64 device, u64 from, u64 header)
{
	struct otc_packet packet = {};
	u64 net = 0;

	LOAD(net, device, OFF_net_device__nd_net);
	LOAD(packet.netns, net, OFF_net__inum);
	send_packet(&packet, skb, from, header);
}

/* A question is of the network namespace of its socket. */
static __always_inline void send_question(u64 *ctx, u64 skb, u64 sk, struct ports *ports, bool connected,
					  u64 from, u64 header)
{
	struct otc_packet packet = {.outgoing = 1};
	u32 block = ports->destination >> 6;
	struct port_flags *flags;
	u64 net = 0;

	LOAD(net, sk, OFF_sock__skc_net);
	LOAD(packet.netns, net, OFF_net__inum);
	if (connected) {
		fill_dialled(&packet, sk);
	} else if (ports->destination != OTC_DNS_PORT) {
		packet.dialled_family = OTC_AF_INET;
		*(u32 *)packet.dialled_address = ports->server;
	}
	fill_asker(&packet, ctx);
	if (ports->destination != OTC_DNS_PORT) {
		flags = translated_ports.lookup(&block);
		if (flags)
			flags->of[ports->destination & 63] = 1;
	}
	send_packet(&packet, skb, from, header);
}

/*
 * A packet that is sent. Only those of local sockets count: what passes through has none. On loopback this is
 * where the answers of local name servers are seen, too.
 */
static __always_inline void sent(u64 *ctx, u64 skb)
{
	u64 sk = 0, device = 0, head = 0, from = 0;
	struct ports ports = {};
	u16 port = 0, peer_port = 0, offset = 0, protocol = 0;
	bool loopback;

	LOAD(sk, skb, OFF_sk_buff__sk);
	if (!sk)
		return;
	LOAD(peer_port, sk, OFF_sock__skc_dport);
	LOAD(port, sk, OFF_sock__skc_num);
	peer_port = network_order(peer_port);
	if (peer_port != OTC_DNS_PORT && port != OTC_DNS_PORT) {
		if (peer_port)
			return;
		LOAD(protocol, sk, OFF_sock__sk_protocol);
		if (protocol != OTC_IPPROTO_UDP)
			return;
	}
	LOAD(device, skb, OFF_sk_buff__dev);
	LOAD(head, skb, OFF_sk_buff__head);
	LOAD(from, skb, OFF_sk_buff__data);
	LOAD(offset, skb, OFF_sk_buff__network_header);
	if (!read_ports(&ports, skb, head + offset))
		return;
	loopback = is_loopback(device);
	if (peer_port == OTC_DNS_PORT || ports.destination == OTC_DNS_PORT ||
	    (loopback && ports.server == network_order_32(OTC_DOCKER)))
		send_question(ctx, skb, sk, &ports, peer_port == OTC_DNS_PORT, from, head + offset);
	else if (loopback && ports.source == OTC_DNS_PORT)
		send_answer(skb, device, from, head + offset);
}

/* A packet that is received, but for those of loopback; its data begins with its IP header. */
static __always_inline void received(u64 skb)
{
	struct port_flags *flags;
	struct ports ports = {};
	u64 device = 0, from = 0;
	u32 block;

	LOAD(device, skb, OFF_sk_buff__dev);
	if (is_loopback(device))
		return;
	LOAD(from, skb, OFF_sk_buff__data);
	if (!read_ports(&ports, skb, from))
		return;
	if (ports.source != OTC_DNS_PORT) {
		block = ports.source >> 6;
		flags = translated_ports.lookup(&block);
		if (!flags || !flags->of[ports.source & 63])
			return;
	}
	send_answer(skb, device, from, from);
}

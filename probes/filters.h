/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * Which attempts the operator wants no record of (docs/decisions/0036-filters-in-the-kernel.md).
 */

/*
 * What the operator does not want records of: a user, a port (a bit for each, 64 in a word), a network of
 * peers. Inserted and deleted by the agent, which decides by these rules as well: what slips through while it
 * changes them is left out there. `filters` says which of them have entries (OTC_BY_*).
 */
BPF_HASH(filtered_uids, u32, u8, OTC_MAX_FILTERS);
BPF_ARRAY(filtered_ports, u64, 1024);
BPF_F_TABLE("lpm_trie", struct otc_network, u8, filtered_networks, OTC_MAX_FILTERS, OTC_ON_DEMAND);
BPF_ARRAY(filters, u32, 1);

static __always_inline bool filtered_port(u16 port)
{
	u16 number = network_order(port);
	u32 word = number >> 6;
	u64 *bits = filtered_ports.lookup(&word);

	return bits && *bits >> (number & 63) & 1;
}

/* Whether the operator does not want a record of it. To where it went is what the agent calls its target. */
static __always_inline bool filtered(struct otc_event *event)
{
	struct otc_network peer = {.bits = 128};
	u16 family = event->family, port = event->peer_port;
	u32 *by, uid = event->uid, mapped = OTC_MAPPED;
	u8 address[16];
	int zero = 0;

	by = filters.lookup(&zero);
	if (!by || !*by)
		return false;
	if (*by & OTC_BY_UID && filtered_uids.lookup(&uid))
		return true;
	if (event->hooks & OTC_HOOK_SYN_SENT) {
		__builtin_memcpy(address, event->peer_address, 16);
	} else if (event->flags & OTC_FLAG_REQUESTED) {
		family = event->requested_family;
		port = event->requested_port;
		__builtin_memcpy(address, event->requested_address, 16);
	} else {
		return false;
	}
	if (family == OTC_AF_INET6) {
		__builtin_memcpy(peer.address, address, 16);
	} else if (family == OTC_AF_INET) {
		__builtin_memcpy(peer.address + 8, &mapped, 4);
		__builtin_memcpy(peer.address + 12, address, 4);
	} else {
		return false;
	}
	if (*by & OTC_BY_PORT && filtered_port(port))
		return true;
	return *by & OTC_BY_NETWORK && filtered_networks.lookup(&peer);
}

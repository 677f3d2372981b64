/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * How attempts without a record are counted: with those that are alike in all that the outcome and the metrics
 * ask for.
 */

/*
 * What is alike -> how many attempts without a record, one map filling while the agent reads the other.
 * Inserted when an attempt is withheld, deleted by the agent when it has taken the map's turn away. The agent
 * takes it by putting the other map into `tallies`: the kernel lets that call return only when no program
 * uses the former one any more (maybe_wait_bpf_programs, Linux 4.20), so that no count is ever lost.
 */
BPF_HASH(tally_even, struct otc_tally_key, struct otc_tally, OTC_MAX_TALLIES);
BPF_HASH(tally_odd, struct otc_tally_key, struct otc_tally, OTC_MAX_TALLIES);
BPF_ARRAY_OF_MAPS(tallies, "tally_even", 1);

/* How many tallies were begun this turn: the agent sets it to 0 with every turn. */
BPF_ARRAY(tallies_begun, u64, 1);

/* Only what the outcome depends on for such an ending: everything else would tell apart what is alike. */
static __always_inline void fill_tally_key(struct otc_tally_key *key, struct otc_event *event)
{
	key->family = event->family;
	key->ending = event->ending;
	key->ended = event->end_ns != 0;
	key->hooks = event->hooks & OTC_HOOK_SYN_SENT;
	key->flags = event->flags & OTC_FLAG_KERNEL;
	if (event->ending == OTC_CLOSED) {
		key->flags |= event->flags & OTC_FLAG_LOCKED;
		key->sk_err = event->sk_err;
		key->sk_err_soft = event->sk_err_soft;
		key->socket_state = event->socket_state;
		key->shutdown = event->shutdown;
	} else if (event->ending == OTC_RETURNED) {
		key->returned = event->returned;
		key->hooks |= event->hooks & OTC_HOOK_END;
	}
	if (key->hooks & OTC_HOOK_SYN_SENT) {
		key->address_family = event->family;
		key->port = event->peer_port;
		__builtin_memcpy(key->address, event->peer_address, 16);
	} else if (event->flags & OTC_FLAG_REQUESTED) {
		key->flags |= OTC_FLAG_REQUESTED;
		key->address_family = event->requested_family;
		key->port = event->requested_port;
		__builtin_memcpy(key->address, event->requested_address, 16);
	}
	key->process_start_ns = event->process_start_ns;
	key->cgroup_id = event->cgroup_id;
	key->pid = event->pid;
	key->uid = event->uid;
	key->netns = event->netns;
	__builtin_memcpy(key->comm, event->comm, 16);
}

/* Once the address is given up, its family has to say what it was: a v4-mapped v6 address counts as v4. */
static __always_inline void forget_peer(struct otc_tally_key *key)
{
	u64 high = 0;
	u32 middle = 0;

	__builtin_memcpy(&high, key->address, 8);
	__builtin_memcpy(&middle, key->address + 8, 4);
	if (key->address_family == OTC_AF_INET6 && !high && middle == OTC_MAPPED)
		key->address_family = OTC_AF_INET;
	key->flags &= ~OTC_FLAG_REQUESTED;
	key->netns = 0;
	key->port = 0;
	__builtin_memset(key->address, 0, 16);
	key->detail = OTC_WITHOUT_PEER;
}

/*
 * Its name stays: a flood of forks is thousands of processes, and one program. That of a kernel thread goes:
 * it is the number of a worker.
 */
static __always_inline void forget_process(struct otc_tally_key *key)
{
	key->process_start_ns = 0;
	key->cgroup_id = 0;
	key->pid = 0;
	key->uid = 0;
	if (key->flags & OTC_FLAG_KERNEL)
		__builtin_memset(key->comm, 0, 16);
	key->flags &= ~OTC_FLAG_KERNEL;
	key->detail = OTC_WITHOUT_PROCESS;
}

/* The tally of a key, begun if the turn has begun fewer than `limit`. */
static __always_inline struct otc_tally *find_tally(void *turn, struct otc_tally_key *key, u64 limit, u64 now)
{
	struct otc_tally *tally = bpf_map_lookup_elem(turn, key), empty = {.first_ns = now};
	int zero = 0;
	u64 *begun;

	if (tally)
		return tally;
	begun = tallies_begun.lookup(&zero);
	if (!begun || *begun >= limit)
		return 0;
	/* when two CPUs meet here one of them inserts, and both find it */
	if (!bpf_map_update_elem(turn, key, &empty, OTC_NOEXIST))
		__sync_fetch_and_add(begun, 1);
	return bpf_map_lookup_elem(turn, key);
}

/*
 * The last quarter of a turn is for those that have less and less in common, so that the outcome is kept, and
 * the name as long as there are fewer than some hundred names: a process may call itself anything.
 */
static __always_inline struct otc_tally *tally_of(struct otc_event *event, u8 withheld, u64 now)
{
	struct otc_tally_key key = {.withheld = withheld};
	struct otc_tally *tally;
	int zero = 0;
	void *turn;

	turn = tallies.lookup(&zero);
	if (!turn)
		return 0;
	fill_tally_key(&key, event);
	tally = find_tally(turn, &key, OTC_MAX_TALLIES / 8 * 6, now);
	if (tally)
		return tally;
	forget_peer(&key);
	tally = find_tally(turn, &key, OTC_MAX_TALLIES / 8 * 7, now);
	if (tally)
		return tally;
	forget_process(&key);
	tally = find_tally(turn, &key, OTC_MAX_TALLIES / 16 * 15, now);
	if (tally)
		return tally;
	__builtin_memset(key.comm, 0, 16);
	return find_tally(turn, &key, OTC_MAX_TALLIES, now);
}

static __always_inline void tally(struct otc_counters *count, struct otc_event *event, u8 withheld)
{
	u64 now = bpf_ktime_get_ns();
	struct otc_tally *alike = tally_of(event, withheld, now);

	if (!alike) {
		COUNT(count->untallied);
		return;
	}
	__sync_fetch_and_add(&alike->attempts, 1);
	if (event->end_ns)
		__sync_fetch_and_add(&alike->duration_ns, event->end_ns - event->start_ns);
	alike->last_ns = now;
}

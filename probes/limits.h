/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * Who floods, and does without records: a bucket of tokens for each process and for each cgroup
 * (docs/decisions/0021-flood-control.md).
 */

#define OTC_DEAR 16 /* times the price of a token, while the ring is more than half full */

/*
 * Process -> the time up to which its tokens are spent (see level()). Inserted when one of its attempts ends
 * and there is none, never deleted: an LRU, because one that is forgotten is made anew with the credit that
 * the age of the process has earned, so that forgetting costs nobody a record.
 */
BPF_TABLE("lru_hash", struct process_key, u64, process_buckets, 16384);

/* cgroup id -> the same as of a process for a cgroup. A forgotten one begins full. */
BPF_TABLE("lru_hash", u64, u64, cgroup_buckets, 1024);

/*
 * The tokens of a bucket, in nanoseconds of its refill. A bucket is one word, the time up to which its tokens
 * are spent: it fills by itself as time goes on, and taking a token moves it forward by the token's cost. So
 * taking is one addition, and of two CPUs that meet here the worst is that one token is taken once for both.
 */
static __always_inline s64 level(u64 *spent, u64 now, s64 burst)
{
	s64 tokens = now - *spent;

	if (tokens <= burst)
		return tokens;
	*spent = now - burst;
	return burst;
}

/* A new process begins with a quarter, an old one that was quiet with all that it has earned. */
static __always_inline u64 *process_bucket(struct otc_event *event, u64 now)
{
	struct process_key key = {.start_ns = event->process_start_ns, .pid = event->pid};
	u64 *spent = process_buckets.lookup(&key), fresh, credit;

	if (spent)
		return spent;
	credit = bpf_ktime_get_boot_ns() - event->process_start_ns + OTC_PROCESS_BURST_NS / 4;
	if (credit > OTC_PROCESS_BURST_NS)
		credit = OTC_PROCESS_BURST_NS;
	fresh = now - credit;
	process_buckets.insert(&key, &fresh);
	return process_buckets.lookup(&key);
}

static __always_inline u64 *cgroup_bucket(u64 id, u64 now)
{
	u64 *spent = cgroup_buckets.lookup(&id), fresh = now - OTC_CGROUP_BURST_NS;

	if (spent)
		return spent;
	cgroup_buckets.insert(&id, &fresh);
	return cgroup_buckets.lookup(&id);
}

/*
 * Whether this attempt has to do without a record, and why. A process that has used its own tokens has. One
 * that has been quiet, so that more than half of them are left, never has: whatever its cgroup or the host do,
 * it is not the one who floods. Those in between have when their cgroup is out of tokens or the agent is
 * behind. An attempt takes a token of its process also when it gets no record: else one that floods would
 * be quiet again as soon as its cgroup holds it back. While the agent is behind a token costs more, so that
 * what room is left is for those who make a few attempts, not for many who just keep to their rates.
 */
static __always_inline enum otc_withheld withhold(struct otc_event *event)
{
	u64 now = bpf_ktime_get_ns(), *own, *shared;
	bool quiet = false, pressed;
	s64 tokens;
	int zero = 0;
	void *queue;

	if (!OTC_PROCESS_COST_NS && !OTC_CGROUP_COST_NS)
		return OTC_NOT_WITHHELD;
	queue = ring.lookup(&zero);
	if (!queue)
		return OTC_NOT_WITHHELD;
	if (OTC_PROCESS_COST_NS) {
		own = process_bucket(event, now);
		if (!own)
			return OTC_NOT_WITHHELD;
		tokens = level(own, now, OTC_PROCESS_BURST_NS);
		pressed = half_full(queue);
		if (tokens < OTC_PROCESS_COST_NS)
			return pressed ? OTC_RING_PRESSURE : OTC_PROCESS_RATE;
		quiet = tokens > OTC_PROCESS_BURST_NS / 2;
		__sync_fetch_and_add(own, pressed ? OTC_PROCESS_COST_NS * OTC_DEAR : OTC_PROCESS_COST_NS);
		if (pressed && !quiet)
			return OTC_RING_PRESSURE;
	}
	if (OTC_CGROUP_COST_NS) {
		shared = cgroup_bucket(event->cgroup_id, now);
		if (shared) {
			/* a quiet process takes what there is, and runs up no debt for the others */
			if (level(shared, now, OTC_CGROUP_BURST_NS) >= OTC_CGROUP_COST_NS)
				__sync_fetch_and_add(shared, OTC_CGROUP_COST_NS);
			else if (!quiet)
				return OTC_CGROUP_RATE;
		}
	}
	return OTC_NOT_WITHHELD;
}

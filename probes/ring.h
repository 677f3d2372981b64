/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * Where everything goes: the ring that the agent reads, and the counters by which nothing is lost in silence.
 */

/*
 * Records for the agent: attempts, written when they end, and texts about processes, told apart by their size.
 * Read on a timer through a mapping.
 */
BPF_RINGBUF_OUTPUT(events, OTC_RING_PAGES);

/*
 * The ring again, put in by the agent when it is ready: bcc cannot name it to bpf_ringbuf_query(), a map of
 * maps can. Nothing is withheld before that.
 */
BPF_ARRAY_OF_MAPS(ring, "events", 1);

/* CPU -> what it counted. A plain array, not a per-CPU one, because only those can be mapped. */
BPF_F_TABLE("array", u32, struct otc_counters, counters, OTC_CPUS, OTC_MMAPABLE);

/* Atomic: a softirq may run a program in the middle of another on the same CPU. */
#define COUNT(counter) __sync_fetch_and_add(&(counter), 1)

static __always_inline struct otc_counters *this_cpu_counters(void)
{
	u32 cpu = bpf_get_smp_processor_id();

	return counters.lookup(&cpu);
}

/* Whether more than one of so many parts of the ring is not read yet; `queue` is the entry of `ring`. */
static __always_inline bool fuller_than(void *queue, u64 parts)
{
	return bpf_ringbuf_query(queue, OTC_AVAILABLE) > OTC_RING_PAGES * PAGE_SIZE / parts;
}

/* Whether the agent is behind. */
static __always_inline bool half_full(void *queue)
{
	return fuller_than(queue, 2);
}

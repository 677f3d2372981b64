// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * One record per TCP connect attempt; and a small one per process that asks a name server, if names are wanted.
 *
 *   raw tracepoint inet_sock_set_state   the beginning (CLOSE -> SYN_SENT) and the end of an attempt
 *   tracepoint sys_enter_connect         opens a call: whose socket, in what state, to where
 *   tracepoint sys_exit_connect          the errno of attempts without SYN_SENT, or whose end was missed;
 *                                        who has connected a datagram socket to port 53
 *
 * The kernel skips a program that would interrupt another on the same CPU: any other for perf tracepoints
 * (bpf_prog_active in trace_call_bpf), only itself for raw ones (prog->active in __bpf_trace_run). So the
 * state hook is a raw tracepoint, with a program for beginnings and two for ends. Beginnings are in process
 * context; an end may come by softirq, in the middle of a beginning or of another end in process context,
 * but never in another softirq: of two equal programs one is free.
 *
 * Only evidence is recorded; what it means is decided in otel_connect/capture/outcome.py.
 *
 * No kernel header is used: every offset comes from the running kernel's BTF as OFF_<struct>__<member>,
 * with OTC_CPUS, OTC_RING_PAGES, OTC_MAX_IN_PROGRESS, OTC_OWN_PID, OTC_MAX_TALLIES, OTC_MAX_FILTERS,
 * OTC_ASKERS, OTC_COMMAND_ARGS and the costs and bursts of the token buckets, as numbers on the command line.
 */
/* The kernel compares this text with those it knows, blanks included. */
/* clang-format off */
#define BPF_LICENSE Dual MIT/GPL
/* clang-format on */

#include "connect.h"

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT    2
#define TCP_SYN_RECV    3
#define TCP_CLOSE       7

#define SS_UNCONNECTED  1
#define SOCK_STREAM     1
#define SOCK_DGRAM      2
#define O_NONBLOCK      04000
#define OTC_AF_INET     2
#define OTC_AF_INET6    10
#define OTC_IPPROTO_TCP 6
#define OTC_IPPROTO_UDP 17
#define OTC_DNS_PORT    (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 0x3500 : 53)
#define OTC_MAPPED      (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 0xffff0000 : 0xffff) /* ::ffff:0:0/96 */
#define IPPROTO_MPTCP   262

#define EINTR          4
#define EISCONN        106
#define EALREADY       114
#define EINPROGRESS    115
#define ERESTART_FIRST 512 /* ERESTARTSYS .. ERESTART_RESTARTBLOCK: user space never sees them */
#define ERESTART_LAST  516

#define OTC_MMAPABLE  1024 /* BPF_F_MMAPABLE */
#define OTC_ON_DEMAND 1    /* BPF_F_NO_PREALLOC: a trie has to have it */
#define OTC_NO_WAKEUP 1    /* BPF_RB_NO_WAKEUP: the agent reads on a timer; a wakeup costs 7 times the probes */
#define OTC_AVAILABLE 0    /* BPF_RB_AVAIL_DATA */
#define OTC_DEAR      16   /* times the price of a token, while the ring is more than half full */
#define OTC_NOEXIST   1    /* BPF_NOEXIST */

/* One connect() call of one thread. */
struct call {
	u64 enter_ns;
	u64 sk;       /* the socket of the descriptor */
	u64 attempt;  /* the sk that went to SYN_SENT inside this call: an MPTCP subflow's differs */
	u64 sockaddr; /* the caller's pointer */
	u32 length;
	u16 protocol;
	u16 requested_family;
	u16 requested_port;
	u8 flags;
	u8 padding[5];
	u8 requested_address[16];
};

/*
 * Records for the agent: attempts, written when they end, texts about processes, and askers, told apart by
 * their size. Read on a timer through a mapping.
 */
BPF_RINGBUF_OUTPUT(events, OTC_RING_PAGES);

/*
 * sk pointer -> the attempt in progress on it. Inserted at CLOSE -> SYN_SENT, deleted at its end; what
 * a missed end leaves behind is deleted by the agent when it is stale, or replaced when the kernel
 * hands the same memory to a new socket. Not an LRU: that would drop attempts in silence.
 */
BPF_HASH(in_progress, u64, struct otc_event, OTC_MAX_IN_PROGRESS);

/* Thread -> its connect() call. Inserted at sys_enter, deleted at sys_exit, which also runs on SIGKILL. */
BPF_HASH(calls, u64, struct call, 16384);

/* CPU -> what it counted. A plain array, not a per-CPU one, because only those can be mapped. */
BPF_F_TABLE("array", u32, struct otc_counters, counters, OTC_CPUS, OTC_MMAPABLE);

/*
 * Process -> the time up to which its tokens are spent (see level()). Inserted when one of its attempts ends
 * and there is none, never deleted: an LRU, because one that is forgotten is made anew with the credit that
 * the age of the process has earned, so that forgetting costs nobody a record.
 */
struct process_key {
	u64 start_ns;
	u64 pid;
};
BPF_TABLE("lru_hash", struct process_key, u64, process_buckets, 16384);

/*
 * Process -> what of it the agent has been told. Inserted when an attempt begins, never deleted: an LRU,
 * because of one that is forgotten the agent is told again.
 */
struct told {
	u64 cgroup_id;
	u64 exec_id;
};
BPF_TABLE("lru_hash", struct process_key, struct told, processes_told, 16384);

/* Where a text is put together. Nobody else on this CPU does meanwhile: attempts begin with preemption off. */
BPF_PERCPU_ARRAY(drafts, struct otc_text, 1);

/* cgroup id -> the same as of a process for a cgroup. A forgotten one begins full. */
BPF_TABLE("lru_hash", u64, u64, cgroup_buckets, 1024);

/*
 * What is alike -> how many attempts without a record, one map filling while the agent reads the other.
 * Inserted when an attempt is withheld, deleted by the agent when it has taken the map's turn away. The agent
 * takes it by putting the other map into `tallies`: the kernel lets that call return only when no program
 * uses the former one any more (maybe_wait_bpf_programs, Linux 4.20), so that no count is ever lost.
 */
BPF_HASH(tally_even, struct otc_tally_key, struct otc_tally, OTC_MAX_TALLIES);
BPF_HASH(tally_odd, struct otc_tally_key, struct otc_tally, OTC_MAX_TALLIES);
BPF_ARRAY_OF_MAPS(tallies, "tally_even", 1);

/*
 * What the operator does not want records of: a user, a port (a bit for each, 64 in a word), a network of
 * peers. Inserted and deleted by the agent, which decides by these rules as well: what slips through while it
 * changes them is left out there. `filters` says which of them have entries (OTC_BY_*).
 */
BPF_HASH(filtered_uids, u32, u8, OTC_MAX_FILTERS);
BPF_ARRAY(filtered_ports, u64, 1024);
BPF_F_TABLE("lpm_trie", struct otc_network, u8, filtered_networks, OTC_MAX_FILTERS, OTC_ON_DEMAND);
BPF_ARRAY(filters, u32, 1);

/* How many tallies were begun this turn: the agent sets it to 0 with every turn. */
BPF_ARRAY(tallies_begun, u64, 1);

/*
 * The ring again, put in by the agent when it is ready: bcc cannot name it to bpf_ringbuf_query(), a map of
 * maps can. Nothing is withheld before that.
 */
BPF_ARRAY_OF_MAPS(ring, "events", 1);

#define READ(destination, base, offset)                                                                        \
	bpf_probe_read_kernel(&(destination), sizeof(destination), (void *)((u64)(base) + (offset)))

/* Atomic: a softirq may run a program in the middle of another on the same CPU. */
#define COUNT(counter) __sync_fetch_and_add(&(counter), 1)

static __always_inline struct otc_counters *this_cpu_counters(void)
{
	u32 cpu = bpf_get_smp_processor_id();

	return counters.lookup(&cpu);
}

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
		pressed = bpf_ringbuf_query(queue, OTC_AVAILABLE) > OTC_RING_PAGES * PAGE_SIZE / 2;
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

static __always_inline bool filtered_port(u16 port)
{
	u16 number = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap16(port) : port;
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

/* Only what the outcome depends on for such an ending: everything else would tell apart what is alike. */
static __always_inline void fill_tally_key(struct otc_tally_key *key, struct otc_event *event)
{
	key->family = event->family;
	key->ending = event->ending;
	key->ended = event->end_ns != 0;
	key->hooks = event->hooks & OTC_HOOK_SYN_SENT;
	if (event->ending == OTC_CLOSED) {
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
		key->flags = OTC_FLAG_REQUESTED;
		key->address_family = event->requested_family;
		key->port = event->requested_port;
		__builtin_memcpy(key->address, event->requested_address, 16);
	}
	key->process_start_ns = event->process_start_ns;
	key->cgroup_id = event->cgroup_id;
	key->pid = event->pid;
	key->uid = event->uid;
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
	key->flags = 0;
	key->port = 0;
	__builtin_memset(key->address, 0, 16);
	key->detail = OTC_WITHOUT_PEER;
}

static __always_inline void forget_process(struct otc_tally_key *key)
{
	key->process_start_ns = 0;
	key->cgroup_id = 0;
	key->pid = 0;
	key->uid = 0;
	__builtin_memset(key->comm, 0, 16);
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

/* The last eighths of a turn are for those that have less and less in common, so that the outcome is kept. */
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

/* Who: always called in the context of the task that attempts. */
static __always_inline void fill_process(struct otc_event *event)
{
	u64 task = bpf_get_current_task(), leader = 0, parent = 0, execs = 0;
	u64 id = bpf_get_current_pid_tgid(), user = bpf_get_current_uid_gid();

	event->pid = id >> 32;
	event->tid = id;
	event->uid = user;
	event->gid = user >> 32;
	event->cgroup_id = bpf_get_current_cgroup_id();
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	READ(leader, task, OFF_task_struct__group_leader);
	READ(event->process_start_ns, leader, OFF_task_struct__start_boottime);
	READ(execs, leader, OFF_task_struct__self_exec_id);
	event->exec_id = execs;
	READ(parent, task, OFF_task_struct__real_parent);
	READ(event->parent_pid, parent, OFF_task_struct__tgid);
}

/* A place in the file system, as the kernel has it: struct path. */
struct place {
	u64 mount; /* struct vfsmount */
	u64 dentry;
};

/* Steps up the tree, through directories and mounts; a path that needs more is cut. */
#define OTC_PATH_STEPS 48

/*
 * A string is added to a text while there are fewer bytes than this, and room for a block behind them. A block
 * holds any name: NAME_MAX and the zero.
 */
#define OTC_TEXT_FULL ((OTC_TEXT_BLOCKS - 1) * OTC_TEXT_BLOCK)

/* Where the next string goes; for the verifier of older kernels, which forgets what a comparison has said. */
static __always_inline u32 end_of(struct otc_text *text)
{
	u32 length = text->length;

	asm volatile("" : "+r"(length));
	return length & (OTC_TEXT_FULL - 1);
}

/* Add a name from the memory of the kernel; false if it cannot be read. */
static __always_inline bool add_name(struct otc_text *text, u64 name)
{
	u32 length = end_of(text);
	long read = bpf_probe_read_kernel_str(text->bytes + length, OTC_TEXT_BLOCK, (void *)name);

	if (read <= 0)
		return false;
	text->length = length + read;
	return true;
}

/* Go from a mounted tree to the directory it is mounted on; false at the top of all. */
static __always_inline bool leave_mount(struct place *at)
{
	u64 mount = at->mount - OFF_mount__mnt, above = 0;

	READ(above, mount, OFF_mount__mnt_parent);
	if (above == mount)
		return false;
	READ(at->dentry, mount, OFF_mount__mnt_mountpoint);
	at->mount = above + OFF_mount__mnt;
	return true;
}

/* Write down the names from a file up to the root directory that its process has. */
static __always_inline void fill_path(struct otc_text *text, struct place at, struct place root)
{
	u64 top = 0, parent = 0, name = 0;
	int step;

	for (step = 0; step < OTC_PATH_STEPS; step++) {
		if (at.dentry == root.dentry && at.mount == root.mount) {
			text->whole = 1;
			return;
		}
		READ(top, at.mount, OFF_vfsmount__mnt_root);
		if (at.dentry == top) {
			if (leave_mount(&at))
				continue;
			text->whole = 1;
			return;
		}
		READ(parent, at.dentry, OFF_dentry__d_parent);
		READ(name, at.dentry, OFF_dentry__d_name);
		if (!add_name(text, name))
			return;
		if (parent == at.dentry) { /* in no directory, as a memfd is */
			text->whole = 1;
			return;
		}
		if (text->length >= OTC_TEXT_FULL)
			return;
		at.dentry = parent;
	}
}

/* What the process runs: the path from its root directory, as it would see it. */
static __always_inline void fill_executable(struct otc_text *text, u64 task, u64 mm)
{
	struct place at = {}, root = {};
	u64 file = 0, fs = 0;

	READ(file, mm, OFF_mm_struct__exe_file);
	READ(at.mount, file, OFF_file__f_path_mnt);
	READ(at.dentry, file, OFF_file__f_path_dentry);
	READ(fs, task, OFF_task_struct__fs);
	READ(root.mount, fs, OFF_fs_struct__root_mnt);
	READ(root.dentry, fs, OFF_fs_struct__root_dentry);
	fill_path(text, at, root);
}

/* Write down the names from a cgroup up to the root, whatever namespace its processes see. */
static __always_inline void fill_cgroup(struct otc_text *text, u64 cgroup)
{
	u64 node = 0, parent = 0, name = 0;
	int step;

	READ(node, cgroup, OFF_cgroup__kn);
	for (step = 0; step < OTC_PATH_STEPS; step++) {
		READ(name, node, OFF_kernfs_node__name);
		if (!add_name(text, name))
			return;
		if (bpf_probe_read_kernel(&parent, sizeof(parent), (void *)(node + OFF_kernfs_node__parent)))
			return;
		if (!parent) {
			text->whole = 1;
			return;
		}
		if (text->length >= OTC_TEXT_FULL)
			return;
		node = parent;
	}
}

/* Strings of a process that are looked at, or blocks of them where they are longer. */
#define OTC_VARIABLE_STEPS 256

/* Eight characters as one number. */
static __always_inline u64 word(const char *characters)
{
	u64 value;

	__builtin_memcpy(&value, characters, 8);
	return value;
}

/* Whether this is one of the variables by which a program is told what service it is. */
static __always_inline bool names_service(const char *variable)
{
	u64 head[4] = {};

	bpf_probe_read_kernel(head, 25, variable);
	if (head[0] == word("OTEL_SER"))
		return head[1] == word("VICE_NAM") &&
		       (head[2] & word("\xff\xff\0\0\0\0\0")) == word("E=\0\0\0\0\0");
	return head[0] == word("OTEL_RES") && head[1] == word("OURCE_AT") && head[2] == word("TRIBUTES") &&
	       head[3] == word("=\0\0\0\0\0\0");
}

/*
 * Write down the variables that name the service, and of all others nothing. A longer one is read block by
 * block, so that what is inside of one is never taken for another.
 */
static __always_inline void fill_environment(struct otc_text *text, u64 mm)
{
	bool inside = false, wanted = false;
	u64 at = 0, end = 0;
	u32 length;
	long read;
	int step;

	READ(at, mm, OFF_mm_struct__env_start);
	READ(end, mm, OFF_mm_struct__env_end);
	for (step = 0; step < OTC_VARIABLE_STEPS; step++) {
		if (at >= end) {
			text->whole = 1;
			return;
		}
		length = end_of(text);
		read = bpf_probe_read_user_str(text->bytes + length, OTC_TEXT_BLOCK, (void *)at);
		if (read <= 0) /* not in memory */
			return;
		if (!inside)
			wanted = names_service(text->bytes + length);
		inside = read == OTC_TEXT_BLOCK;
		if (inside)
			read--; /* its last byte became the zero */
		at += read;
		if (!wanted)
			continue;
		text->length = length + read;
		if (text->length >= OTC_TEXT_FULL)
			return;
	}
}

/* Write down the arguments as they stand in memory, or only the first. */
static __always_inline void fill_arguments(struct otc_text *text, u64 mm)
{
	u64 start = 0, end = 0, size;
	long read;

	READ(start, mm, OFF_mm_struct__arg_start);
	if (!OTC_COMMAND_ARGS) {
		read = bpf_probe_read_user_str(text->bytes, OTC_TEXT_BLOCK, (void *)start);
		text->length = read > 0 ? read : 0;
		text->whole = read > 0 && read < OTC_TEXT_BLOCK;
		return;
	}
	READ(end, mm, OFF_mm_struct__arg_end);
	size = end - start;
	text->whole = size < OTC_TEXT_FULL;
	if (size >= OTC_TEXT_FULL)
		size = OTC_TEXT_FULL - 1;
	asm volatile("" : "+r"(size));
	size &= OTC_TEXT_FULL - 1;
	if (!bpf_probe_read_user(text->bytes, size, (void *)start))
		text->length = size;
}

/* An empty text, which the caller fills. */
static __always_inline void begin_text(struct otc_text *text, u8 about)
{
	text->about = about;
	text->length = 0;
	text->whole = 0;
}

/* False if there was no room in the ring. */
static __always_inline bool send_text(struct otc_text *text)
{
	u64 blocks = (text->length + OTC_TEXT_BLOCK - 1) / OTC_TEXT_BLOCK;
	u64 size = sizeof(*text) - sizeof(text->bytes) + blocks * OTC_TEXT_BLOCK;

	asm volatile("" : "+r"(size)); /* else the comparison is made with another register */
	if (size > sizeof(*text))
		return false;
	return !events.ringbuf_output(text, size, OTC_NO_WAKEUP);
}

/* Where the process is in the trees of cgroups. */
static __always_inline bool tell_cgroups(struct otc_text *text, u64 task)
{
	u64 set = 0, unified = 0, state = 0, other = 0, root = 0, other_root = 0;

	if (!OTC_CGROUPS)
		return true;
	READ(set, task, OFF_task_struct__cgroups);
	READ(unified, set, OFF_css_set__dfl_cgrp);
	begin_text(text, OTC_CGROUP);
	fill_cgroup(text, unified);
	if (!send_text(text))
		return false;
	if (OTC_PIDS_CONTROLLER < 0) {
		text->nothing |= 1 << OTC_CGROUP_V1;
		return true;
	}
	READ(state, set, OFF_css_set__subsys + OTC_PIDS_CONTROLLER * sizeof(u64));
	READ(other, state, OFF_cgroup_subsys_state__cgroup);
	READ(root, unified, OFF_cgroup__root);
	READ(other_root, other, OFF_cgroup__root);
	if (root == other_root) { /* the controller is in the v2 tree, or not in use */
		text->nothing |= 1 << OTC_CGROUP_V1;
		return true;
	}
	begin_text(text, OTC_CGROUP_V1);
	fill_cgroup(text, other);
	return send_text(text);
}

static __always_inline bool tell_environment(struct otc_text *text, u64 mm)
{
	begin_text(text, OTC_ENVIRONMENT);
	fill_environment(text, mm);
	if (text->length)
		return send_text(text);
	if (text->whole)
		text->nothing |= 1 << OTC_ENVIRONMENT;
	return true;
}

static __always_inline bool tell_arguments(struct otc_text *text, u64 mm)
{
	begin_text(text, OTC_ARGUMENTS);
	fill_arguments(text, mm);
	return !text->length || send_text(text);
}

/* The pid that the process has for itself. */
static __always_inline u32 pid_inside(u64 task)
{
	u64 leader = 0, pid = 0;
	u32 level = 0, number = 0;

	if (!OTC_VPIDS)
		return 0;
	READ(leader, task, OFF_task_struct__group_leader);
	READ(pid, leader, OFF_task_struct__thread_pid);
	READ(level, pid, OFF_pid__level);
	READ(number, pid, OFF_pid__numbers + (u64)level * OTC_UPID_BYTES + OFF_upid__nr);
	return number;
}

/*
 * Tell the agent about the process, unless it knows: when the attempt ends, the process may be gone. What finds
 * no room in the ring is told again with the next attempt, all of it.
 */
static __always_inline void tell(struct otc_event *event)
{
	struct process_key key = {.start_ns = event->process_start_ns, .pid = event->pid};
	struct told now = {.cgroup_id = event->cgroup_id, .exec_id = event->exec_id}, *told;
	u64 task = bpf_get_current_task(), mm = 0;
	struct otc_text *text;
	int zero = 0;

	told = processes_told.lookup(&key);
	if (told && told->exec_id == now.exec_id && told->cgroup_id == now.cgroup_id)
		return;
	READ(mm, task, OFF_task_struct__mm);
	if (!mm) /* a thread of the kernel */
		return;
	text = drafts.lookup(&zero);
	if (!text)
		return;
	text->process_start_ns = key.start_ns;
	text->pid = key.pid;
	text->exec_id = event->exec_id;
	text->vpid = pid_inside(task);
	text->nothing = 0;
	if (!tell_cgroups(text, task) || !tell_environment(text, mm) || !tell_arguments(text, mm))
		return;
	begin_text(text, OTC_EXECUTABLE);
	fill_executable(text, task, mm);
	if (send_text(text))
		processes_told.update(&key, &now);
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

static __always_inline void fill_call(struct otc_event *event, struct call *call)
{
	event->hooks |= OTC_HOOK_ENTER;
	event->flags |= call->flags;
	event->requested_family = call->requested_family;
	event->requested_port = call->requested_port;
	__builtin_memcpy(event->requested_address, call->requested_address, 16);
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

/* An MPTCP socket is seen by its subflows, which are TCP. */
static __always_inline bool is_tcp(u64 sk)
{
	u16 protocol = 0;

	READ(protocol, sk, OFF_sock__sk_protocol);
	return protocol == OTC_IPPROTO_TCP;
}

/* The tracepoint's arguments are the socket, its old and its new state, which is stored a little later. */
int begin_attempt(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0];
	struct otc_counters *count;
	int new = ctx->args[2];

	if (new != TCP_SYN_SENT || !is_tcp(sk))
		return 0;
	count = this_cpu_counters();
	if (count)
		begin(count, sk);
	return 0;
}

static __always_inline int end_of_attempt(struct bpf_raw_tracepoint_args *ctx, bool first)
{
	u64 sk = ctx->args[0];
	int old = ctx->args[1], new = ctx->args[2];
	struct otc_counters *count;

	if (old != TCP_SYN_SENT && old != TCP_SYN_RECV)
		return 0;
	if (new == TCP_SYN_RECV || !is_tcp(sk)) /* simultaneous open: still pending */
		return 0;
	count = this_cpu_counters();
	if (count)
		end(count, sk, old, new, first);
	return 0;
}

int end_attempt(struct bpf_raw_tracepoint_args *ctx)
{
	return end_of_attempt(ctx, true);
}

/* Handles what the first one missed, and finds nothing left to do otherwise. */
int end_attempt_again(struct bpf_raw_tracepoint_args *ctx)
{
	return end_of_attempt(ctx, false);
}

/* The socket of a descriptor of this task, or 0. */
static __always_inline u64 socket_of(u32 fd)
{
	u64 task = bpf_get_current_task(), files = 0, table = 0, array = 0, file = 0, socket = 0, back = 0;
	u32 size = 0;

	READ(files, task, OFF_task_struct__files);
	READ(table, files, OFF_files_struct__fdt);
	READ(size, table, OFF_fdtable__max_fds);
	if (fd >= size)
		return 0;
	READ(array, table, OFF_fdtable__fd);
	READ(file, array, fd * sizeof(u64));
	if (!file)
		return 0;
	READ(socket, file, OFF_file__private_data);
	if (!socket)
		return 0;
	READ(back, socket, OFF_socket__file);
	return back == file ? socket : 0; /* only a socket's private data points back */
}

/* Copy the address that the caller asks for, if its memory can be read now. */
static __always_inline void read_requested(struct call *call)
{
	u8 address[28] = {}; /* sockaddr_in6; a sockaddr_in has 16 bytes and may end at an unmapped page */
	long failed;

	if (call->length >= 28)
		failed = bpf_probe_read_user(address, 28, (void *)call->sockaddr);
	else if (call->length >= 16)
		failed = bpf_probe_read_user(address, 16, (void *)call->sockaddr);
	else
		return;
	if (failed)
		return;
	__builtin_memcpy(&call->requested_family, address, 2);
	__builtin_memcpy(&call->requested_port, address + 2, 2);
	if (call->requested_family == OTC_AF_INET6)
		__builtin_memcpy(call->requested_address, address + 8, 16);
	else
		__builtin_memcpy(call->requested_address, address + 4, 4);
	call->flags |= OTC_FLAG_REQUESTED;
}

/* Whether a datagram socket is being connected to a name server: all that is read of other ones is a port. */
static __always_inline bool is_asker(struct call *call, u64 sockaddr, u32 length)
{
	u16 port = 0;

	if (!OTC_ASKERS || call->protocol != OTC_IPPROTO_UDP || length < 16)
		return false;
	return !bpf_probe_read_user(&port, sizeof(port), (void *)(sockaddr + 2)) && port == OTC_DNS_PORT;
}

TRACEPOINT_PROBE(syscalls, sys_enter_connect)
{
	u64 thread = bpf_get_current_pid_tgid(), socket;
	struct otc_counters *count;
	struct call call = {};
	u16 family = 0, type = 0;
	u32 socket_state = 0;
	u8 tcp_state = 0;

	if (thread >> 32 == OTC_OWN_PID)
		return 0;
	socket = socket_of(args->fd);
	if (!socket)
		return 0;
	READ(call.sk, socket, OFF_socket__sk);
	READ(family, call.sk, OFF_sock__skc_family);
	READ(type, socket, OFF_socket__type);
	READ(call.protocol, call.sk, OFF_sock__sk_protocol);
	if (family != OTC_AF_INET && family != OTC_AF_INET6)
		return 0;
	if (type == SOCK_DGRAM && is_asker(&call, (u64)args->uservaddr, args->addrlen)) {
		calls.update(&thread, &call);
		return 0;
	}
	if (type != SOCK_STREAM)
		return 0;
	if (call.protocol != OTC_IPPROTO_TCP && call.protocol != IPPROTO_MPTCP)
		return 0;
	READ(socket_state, socket, OFF_socket__state);
	READ(tcp_state, call.sk, OFF_sock__skc_state);
	if (socket_state != SS_UNCONNECTED || tcp_state != TCP_CLOSE) {
		/* asks after a pending attempt, or is EISCONN; nothing stale may answer for it */
		calls.delete(&thread);
		return 0;
	}
	call.enter_ns = bpf_ktime_get_ns();
	call.sockaddr = (u64)args->uservaddr;
	call.length = args->addrlen;
	if (call.protocol == IPPROTO_MPTCP)
		call.flags |= OTC_FLAG_MPTCP;
	read_requested(&call);
	count = this_cpu_counters();
	if (count && calls.update(&thread, &call))
		COUNT(count->call_full);
	return 0;
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

/* Tell the agent who will ask; not while it is behind, for attempts come first. */
static __always_inline void tell_asker(struct otc_counters *count, u64 sk)
{
	struct otc_event socket = {};
	struct otc_asker asker = {};
	int zero = 0;
	void *queue;

	queue = ring.lookup(&zero);
	if (!queue || bpf_ringbuf_query(queue, OTC_AVAILABLE) > OTC_RING_PAGES * PAGE_SIZE / 2) {
		COUNT(count->askers_lost);
		return;
	}
	fill_process(&socket);
	fill_addresses(&socket, sk);
	asker.process_start_ns = socket.process_start_ns;
	asker.at_ns = bpf_ktime_get_ns();
	asker.pid = socket.pid;
	asker.netns = socket.netns;
	asker.family = socket.family;
	asker.local_port = socket.local_port;
	__builtin_memcpy(asker.local_address, socket.local_address, 16);
	__builtin_memcpy(asker.peer_address, socket.peer_address, 16);
	if (events.ringbuf_output(&asker, sizeof(asker), OTC_NO_WAKEUP) < 0)
		COUNT(count->askers_lost);
}

TRACEPOINT_PROBE(syscalls, sys_exit_connect)
{
	u64 thread = bpf_get_current_pid_tgid();
	int returned = args->ret;
	struct otc_counters *count;
	struct call *call;

	call = calls.lookup(&thread);
	if (!call)
		return 0;
	count = this_cpu_counters();
	if (!count)
		return 0;
	if (call->protocol == OTC_IPPROTO_UDP) {
		if (!returned)
			tell_asker(count, call->sk);
	} else if (call->attempt)
		returned_from(count, call, returned);
	else if (is_final(-returned))
		local_failure(count, call, returned);
	calls.delete(&thread);
	return 0;
}

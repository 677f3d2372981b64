/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * The wire contract between the probes and the agent.
 *
 * Everything here is compiled three times: into the probes, by the host's compiler in a test that
 * compares every offset with the Python decoder (otel_connect/capture/layout.py), and by people.
 * Integers are in the host's byte order, but for ports and addresses: these are as on the network.
 */
#ifndef OTC_CONNECT_H
#define OTC_CONNECT_H

#include <linux/types.h>

/* Which observation ended the attempt. */
enum otc_ending {
	OTC_PENDING = 0,     /* none yet: only found by reading the table of attempts */
	OTC_ESTABLISHED = 1, /* SYN_SENT or SYN_RECV -> ESTABLISHED */
	OTC_CLOSED = 2,      /* SYN_SENT or SYN_RECV -> any other state */
	OTC_RETURNED = 3,    /* connect() returned a final error before any other end was seen */
	OTC_REPLACED = 4,    /* a new attempt began on a socket whose last one had no end */
};

/* Which hooks saw the attempt. */
#define OTC_HOOK_ENTER    1
#define OTC_HOOK_SYN_SENT 2
#define OTC_HOOK_END      4
#define OTC_HOOK_EXIT     8
#define OTC_HOOK_RESET    16 /* a RST came for it */

#define OTC_FLAG_NONBLOCKING    1
#define OTC_FLAG_BLOCKING_KNOWN 2
#define OTC_FLAG_MPTCP          4
#define OTC_FLAG_REQUESTED      8   /* requested_* could be read from the caller's memory */
#define OTC_FLAG_CLOSED_IN_CALL 16  /* the socket closed before its own connect() returned */
#define OTC_FLAG_LOCKED         32  /* a task held the socket's lock when the socket closed */
#define OTC_FLAG_KERNEL         64  /* made by a thread of the kernel */
#define OTC_FLAG_DEFERRED       128 /* connect() returned 0 without a SYN: the first write sends it */

/* One attempt: what was seen of it, no more. */
struct otc_event {
	__u64 sequence; /* on its CPU: with cpu, its identity as long as the agent runs */
	__u64 start_ns; /* CLOCK_MONOTONIC: when the SYN left; while that is not known, SYN_SENT or connect() */
	__u64 end_ns;   /* CLOCK_MONOTONIC; 0: no end was seen */
	__u64 process_start_ns; /* CLOCK_BOOTTIME: with pid, the identity of the process */
	__u64 cgroup_id;        /* in the cgroup v2 tree */
	__u32 pid;              /* what user space calls pid: the thread group's */
	__u32 tid;
	__u32 parent_pid;
	__u32 uid; /* the effective one, like gid */
	__u32 gid;
	__u32 netns; /* inode number of the socket's network namespace */
	__u32 cpu;
	__u32 srtt_us;     /* at establishment */
	__u32 drop_reason; /* enum skb_drop_reason of the last of the drops */
	__s16 sk_err;      /* set by this attempt: at the end, or by a RST just before it */
	__s16 sk_err_soft; /* the same of sk_err_soft, at the end or when connect() returned; or of a queued
			      ICMP error. Negative: it has the value that an earlier attempt had left */
	__s16 returned;    /* by connect(): valid with OTC_HOOK_EXIT */
	__u16 family;      /* of the socket */
	__u16 local_port;
	__u16 peer_port;
	__u16 requested_family;
	__u16 requested_port;
	__u8 ending; /* enum otc_ending */
	__u8 hooks;
	__u8 flags;
	__u8 socket_state; /* enum socket_state at the end; 0: no socket */
	__u8 shutdown;     /* sk_shutdown at the end */
	__u8 syn_retransmits;
	__u8 drops;         /* how many of its packets this host dropped last, in one direction and SYN_SENT */
	__u8 drop_received; /* 1: they were answers that this host had received; 0: SYNs */
	__u32 exec_id;      /* of the process: which of the files it has run, one after another */
	__u8 local_address[16]; /* AF_INET uses the first four bytes */
	__u8 peer_address[16];
	__u8 requested_address[16];
	char comm[16];
};

_Static_assert(sizeof(struct otc_event) == 168, "otc_event: the decoder reads 168 bytes");

/* An attempt in progress, and what an earlier one had left on its socket, which is no evidence of this one. */
struct otc_attempt {
	struct otc_event event;
	__u64 newest_error; /* the last entry of the error queue: an address, only compared */
	__u32 soft_error;   /* sk_err_soft */
	__u32 padding;
};

_Static_assert(sizeof(struct otc_attempt) == 184, "otc_attempt: the decoder reads 184 bytes");

/* Why an attempt that ended has no record of its own: it is only tallied. */
enum otc_withheld {
	OTC_NOT_WITHHELD = 0,
	OTC_PROCESS_RATE = 1,  /* the bucket of its process was empty */
	OTC_CGROUP_RATE = 2,   /* that of its cgroup was, and its process had not been quiet */
	OTC_RING_PRESSURE = 3, /* the ring was more than half full, and its process had not been quiet */
	OTC_RING_FULL = 4,     /* there was no room in the ring */
	OTC_FILTERED = 5,      /* the operator does not want one */
};

/* What the attempts of one tally have in common: less and less, as the tallies of a turn grow many. */
enum otc_detail {
	OTC_WHOLE = 0,
	OTC_WITHOUT_PEER = 1,
	OTC_WITHOUT_PROCESS = 2, /* nor the peer: the outcome, and the name unless there are too many names */
};

/* Attempts without records of their own, alike in all that the outcome and the metrics ask for. */
struct otc_tally_key {
	__u64 process_start_ns; /* as in otc_event, like all fields that are called as there */
	__u64 cgroup_id;
	__u32 pid;
	__u32 uid;
	__u32 netns; /* as long as the peer is known: its address means something there */
	__s32 sk_err;
	__s32 sk_err_soft;
	__s32 returned;
	__u16 family;
	__u16 address_family;
	__u16 port;
	__u8 ending;
	__u8 hooks; /* of OTC_HOOK_SYN_SENT and, for OTC_RETURNED, OTC_HOOK_END */
	__u8 flags; /* of OTC_FLAG_REQUESTED, OTC_FLAG_KERNEL and, for OTC_CLOSED, OTC_FLAG_LOCKED */
	__u8 socket_state;
	__u8 shutdown;
	__u8 withheld; /* enum otc_withheld */
	__u8 detail;   /* enum otc_detail */
	__u8 ended;    /* whether an end was seen: duration_ns counts it */
	__u8 padding[2];
	__u8 address[16]; /* of the peer, or the one that was asked for when there was no SYN */
	char comm[16];
};

_Static_assert(sizeof(struct otc_tally_key) == 88, "otc_tally_key: the decoder reads 88 bytes");

struct otc_tally {
	__u64 attempts;
	__u64 duration_ns; /* of all of them together */
	__u64 first_ns;    /* CLOCK_MONOTONIC: when the first was tallied */
	__u64 last_ns;     /* and the last, within microseconds */
};

_Static_assert(sizeof(struct otc_tally) == 32, "otc_tally: the decoder reads 32 bytes");

/* By what attempts are filtered: which of the maps of filters have entries. */
#define OTC_BY_UID     1
#define OTC_BY_PORT    2
#define OTC_BY_NETWORK 4

/* A network of peers, the key of a trie: an IPv4 one is that of its v4-mapped addresses. */
struct otc_network {
	__u32 bits; /* of the address that count: 0 .. 128 */
	__u8 address[16];
};

_Static_assert(sizeof(struct otc_network) == 20, "otc_network: the agent writes 20 bytes");

/*
 * What a text is about. The names of a path stand one after another, that of the file first:
 * "curl\0bin\0usr\0"; those of a cgroup end with that of the root, "".
 */
enum otc_about {
	OTC_EXECUTABLE = 1,
	OTC_CGROUP = 2,      /* in the v2 tree */
	OTC_CGROUP_V1 = 3,   /* in the v1 hierarchy of the pids controller, where that has one */
	OTC_ENVIRONMENT = 4, /* those variables that name a service */
	OTC_ARGUMENTS = 5,   /* argv, or its first element */
};

#define OTC_TEXT_BLOCK  256
#define OTC_TEXT_BLOCKS 5

/*
 * Something about a process, sent ahead of its first attempt: strings, each with a zero at its end. Only the
 * blocks that are filled are sent. OTC_EXECUTABLE is the last of its process.
 */
struct otc_text {
	__u64 process_start_ns; /* CLOCK_BOOTTIME: with pid and exec_id, which process and which of its files */
	__u32 pid;
	__u32 exec_id;
	__u32 vpid;   /* in the innermost namespace that the process is in; 0: not known */
	__u16 length; /* of the strings, in bytes */
	__u8 about;   /* enum otc_about */
	__u8 whole;   /* 0: there is more than was read */
	__u8 nothing; /* with OTC_EXECUTABLE: 1 << about for all that there is none of, though looked for */
	__u8 padding[3];
	__u32 root_mount; /* id of the mount whose top is its root directory; 0: none, or not known */
	char bytes[OTC_TEXT_BLOCKS * OTC_TEXT_BLOCK];
};

_Static_assert(sizeof(struct otc_text) == 1312, "otc_text: the decoder reads 32 bytes, then blocks");

/*
 * A packet to or from a name server; its bytes follow. In the perf buffers, not in the ring.
 */
struct otc_packet {
	__u64 at_ns;            /* CLOCK_MONOTONIC */
	__u64 process_start_ns; /* of who asks, as in otc_event; 0: not known */
	__u32 pid;
	__u32 netns;          /* of the socket that asks, or of the device that an answer came in by */
	__u16 header;         /* where in the bytes the IP header is */
	__u16 dialled_family; /* to where the socket that asks is connected; 0: it is not */
	__u16 length;         /* of the bytes */
	__u8 outgoing;        /* 1: a question, on its way out; 0: received */
	__u8 padding;
	__u8 dialled_address[16];
};

_Static_assert(sizeof(struct otc_packet) == 48, "otc_packet: the decoder reads 48 bytes");

/*
 * What one CPU counted since the probes were attached. At any time, summed over the CPUs,
 * seen == emitted + ring_full + pending_full + throttled + filtered + unsent + the entries of the table of
 * attempts, and ring_full + throttled + filtered == the attempts of all tallies + untallied.
 */
struct otc_counters {
	__u64 seen;         /* attempts, counted before anything else is done with them */
	__u64 emitted;      /* records that reached the ring */
	__u64 ring_full;    /* records that found no room in it */
	__u64 pending_full; /* attempts that found no room in the table of attempts */
	__u64 call_full;    /* connect() calls that found no room in the table of calls */
	__u64 untracked;    /* ends without a beginning: it was before the attach, or found no room */
	__u64 own;          /* attempts of the agent itself */
	__u64 throttled;    /* attempts that got no record because there were too many of them */
	__u64 untallied;    /* attempts without a record that found no room among the tallies either */
	__u64 filtered;     /* attempts that got no record because the operator does not want one */
	__u64 packets_lost; /* packets to and from name servers that found no room in their buffers */
	__u64 unsent;       /* taken for attempts until the socket ended without having sent a SYN */
	__u64 padding[4];   /* no cache line is shared between CPUs */
};

_Static_assert(sizeof(struct otc_counters) == 128, "otc_counters: one CPU's is two cache lines");

#endif

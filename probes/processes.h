/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * Whose an attempt is, and what the agent is told of a process ahead of its first attempt, while it lives.
 */

/* A process: its pid alone is used again. */
struct process_key {
	u64 start_ns;
	u64 pid;
};

/*
 * Process -> what of it the agent has been told. Inserted when an attempt begins, never deleted: an LRU,
 * because of one that is forgotten the agent is told again.
 */
struct told {
	u64 cgroup_id;
	u64 exec_id;
};
BPF_TABLE("lru_hash", struct process_key, struct told, processes_told, 16384);

/*
 * Which program records an attempt. On one CPU none is interrupted by itself, but those on functions run with
 * preemption on, so that another one may run in the middle of them: each has a place of its own.
 */
enum recorder { STATE_HOOK, CALL_HOOK, OTHER_CALL_HOOK, RECORDERS };

/* Recorder -> where it puts a text together. */
BPF_PERCPU_ARRAY(drafts, struct otc_text, RECORDERS);

/* Who: always called in the context of the task that attempts. */
static __always_inline void fill_process(struct otc_event *event)
{
	u64 task = current_task(), leader = 0, parent = 0, execs = 0, cred = 0;
	u64 id = bpf_get_current_pid_tgid();
	u32 flags = 0;

	event->pid = id >> 32;
	event->tid = id;
	/* bpf_get_current_uid_gid() says the real ones, by which no permission is decided */
	LOAD_TASK(cred, task, OFF_task_struct__cred);
	LOAD_TASK(event->uid, cred, OFF_cred__euid);
	LOAD_TASK(event->gid, cred, OFF_cred__egid);
	LOAD_TASK(flags, task, OFF_task_struct__flags);
	if (flags & PF_KTHREAD)
		event->flags |= OTC_FLAG_KERNEL;
	event->cgroup_id = bpf_get_current_cgroup_id();
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	LOAD_TASK(leader, task, OFF_task_struct__group_leader);
	LOAD_TASK(event->process_start_ns, leader, OFF_task_struct__start_boottime);
	LOAD_TASK(execs, leader, OFF_task_struct__self_exec_id);
	event->exec_id = execs;
	LOAD_TASK(parent, task, OFF_task_struct__real_parent);
	LOAD_TASK(event->parent_pid, parent, OFF_task_struct__tgid);
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
 * The id of the mount whose top is the root directory of the process. A mount belongs to one mount namespace,
 * so two processes with the same one find the same files. Below the top, as after a chroot, an id says nothing.
 */
static __always_inline u32 root_mount(u64 task)
{
	u64 fs = 0, mount = 0, dentry = 0, top = 0;
	u32 id = 0;

	READ(fs, task, OFF_task_struct__fs);
	READ(mount, fs, OFF_fs_struct__root_mnt);
	READ(dentry, fs, OFF_fs_struct__root_dentry);
	READ(top, mount, OFF_vfsmount__mnt_root);
	if (top == dentry)
		READ(id, mount - OFF_mount__mnt, OFF_mount__mnt_id);
	return id;
}

/*
 * Tell the agent about the process, unless it knows: when the attempt ends, the process may be gone. What finds
 * no room in the ring is told again with the next attempt, all of it. Three quarters of the ring are for
 * records: a flood of processes must not cost those who make a few attempts theirs, nor make tokens dear.
 */
static __always_inline void tell(struct otc_event *event, enum recorder recorder)
{
	struct process_key key = {.start_ns = event->process_start_ns, .pid = event->pid};
	struct told now = {.cgroup_id = event->cgroup_id, .exec_id = event->exec_id}, *told;
	u64 task = current_task(), mm = 0;
	struct otc_text *text;
	int zero = 0, place = recorder;
	void *queue;

	told = processes_told.lookup(&key);
	if (told && told->exec_id == now.exec_id && told->cgroup_id == now.cgroup_id)
		return;
	queue = ring.lookup(&zero);
	if (queue && fuller_than(queue, 4))
		return;
	LOAD_TASK(mm, task, OFF_task_struct__mm);
	if (!mm) /* a thread of the kernel */
		return;
	text = drafts.lookup(&place);
	if (!text)
		return;
	text->process_start_ns = key.start_ns;
	text->pid = key.pid;
	text->exec_id = event->exec_id;
	text->vpid = pid_inside(task);
	text->root_mount = root_mount(task);
	text->nothing = 0;
	if (!tell_cgroups(text, task) || !tell_environment(text, mm) || !tell_arguments(text, mm))
		return;
	begin_text(text, OTC_EXECUTABLE);
	fill_executable(text, task, mm);
	if (send_text(text))
		processes_told.update(&key, &now);
}

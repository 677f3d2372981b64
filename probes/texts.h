/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * What can be read about a process: its executable, its cgroup, its environment, its arguments, each as strings
 * in a struct otc_text (docs/decisions/0028-texts-about-a-process.md).
 */

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

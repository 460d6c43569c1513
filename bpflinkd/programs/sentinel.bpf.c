// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Tells of changes that others make to the hooks that we follow: one fexit program on each kernel function that
 * changes an attachment. Nothing runs while nobody changes one.
 *
 * Layouts of keys, configuration and records are those of kernel/sentinel_records.py; change LAYOUT there with them.
 * Of the kernel's structs only the fields are named that are read; where they are is found at load (CO-RE). */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define COMM 16
#define NAME 16
#define TAG 8
#define PART 256 /* NAME_MAX, and the NUL */
#define PATHS (4 * PART)
#define STEPS 48 /* directories and mounts that are walked up, at most */

#define PF_KTHREAD 0x00200000
#define NETREG_UNREGISTERING 2
#define NETREG_UNREGISTERED 3
#define NETREG_RELEASED 4

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct bpf_prog_aux {
	__u32 id;
	char name[NAME];
};
struct bpf_prog {
	enum bpf_prog_type type;
	__u8 tag[TAG];
	struct bpf_prog_aux *aux;
};
struct bpf_link {
	__u32 id;
	struct bpf_prog *prog;
	enum bpf_attach_type attach_type; /* on older kernels in bpf_cgroup_link */
};
struct bpf_cgroup_link {
	struct bpf_link link;
	struct cgroup *cgroup;
};
struct bpf_cgroup_link___typed {
	enum bpf_attach_type type;
};
struct bpf_xdp_link {
	struct bpf_link link;
};
struct bpf_xdp_entity {
	struct bpf_prog *prog;
	struct bpf_xdp_link *link;
};
struct bpf_map {
	__u32 id;
};
struct bpf_array {
	void *ptrs[1];
};

struct ns_common {
	unsigned int inum;
};
struct net {
	struct ns_common ns;
};
typedef struct {
	struct net *net;
} possible_net_t;
struct net_device {
	int ifindex;
	possible_net_t nd_net;
	struct bpf_xdp_entity xdp_state[3];
	__u8 reg_state;
};
enum reg_state_enum { REG_STATE = 255 };
struct net_device___bitfield {
	enum reg_state_enum reg_state : 8;
};

struct kernfs_node {
	__u64 id;
	struct kernfs_node *__parent;
	const char *name;
};
struct kernfs_node___parent {
	struct kernfs_node *parent;
};
struct work_struct {};
struct cgroup_bpf {
	struct work_struct release_work;
};
struct cgroup {
	struct kernfs_node *kn;
	struct cgroup_bpf bpf;
};
struct css_set {
	struct cgroup *dfl_cgrp;
};

struct qstr {
	const unsigned char *name;
};
struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
};
struct vfsmount {
	struct dentry *mnt_root;
};
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
struct file {
	struct path f_path;
};
struct mm_struct {
	struct file *exe_file;
};
struct task_struct {
	unsigned int flags;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	struct css_set *cgroups;
	__u64 start_boottime;
};
#pragma clang attribute pop

enum operation {
	XDP_INSTALL,
	CGROUP_ATTACH,
	CGROUP_DETACH,
	CGROUP_REPLACE,
	CGROUP_RELEASE,
	SLOT_UPDATE,
	SLOT_DELETE,
	OPERATIONS,
};
enum kind { XDP = 1, CGROUP, SLOT };

struct hook {
	__u32 kind;
	__u32 netns; /* inode number, of XDP hooks */
	__u64 id; /* ifindex, cgroup id or map id */
};

struct program {
	__u32 id; /* 0: none */
	__u32 type;
	__u8 tag[TAG];
	char name[NAME];
};

struct record {
	struct hook hook;
	__u64 at; /* CLOCK_MONOTONIC, ns */
	__u32 operation;
	__u32 attach_type;
	__u32 link_id;
	__u8 dying;
	__u8 kernel_thread;
	__u16 unused;
	__u32 tgid;
	__u32 pid;
	__u32 uid;
	__u16 executable; /* bytes of `paths` that are the executable's; the cgroup's come after them */
	__u8 executable_whole;
	__u8 cgroup_whole;
	struct program before, after;
	char comm[COMM];
	char paths[PATHS]; /* parts with their NUL, the last part of a path first */
};
#define HEAD __builtin_offsetof(struct record, paths)

struct config {
	__u64 build;
	__u32 layout;
	__u32 operations;
	__u32 tgid; /* of the daemon; 0 while none runs */
	__u32 tick; /* ns */
	__u64 started; /* when the daemon was, in ticks since boot: a process id alone is given out again */
};

/* Room for 10,000 changes in a burst, which take some 20 ms, or while no daemon runs. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, struct hook);
	__type(value, __u32);
} hooks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

/* Records that found no room, and how many of them were told. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

/* One record for each operation: a program may be preempted by another one of ours, and by itself it is not run
 * again meanwhile. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OPERATIONS);
	__type(key, __u32);
	__type(value, struct record);
} drafts SEC(".maps");

struct walk {
	struct record *record;
	struct kernfs_node *node;
	struct dentry *dentry;
	struct mount *mount;
	__u32 used;
	__u32 most;
	__u32 whole;
};

static __always_inline int add_part(struct walk *walk, const void *name)
{
	__u32 used = walk->used;
	long length;

	if (used > walk->most || used > PATHS - PART)
		return -1;
	length = bpf_probe_read_kernel_str(&walk->record->paths[used], PART, name);
	if (length <= 0 || length > PART)
		return -1;
	walk->used = used + length;
	return 0;
}

static long up_the_directories(__u32 step, struct walk *walk)
{
	struct dentry *dentry = walk->dentry, *parent;
	struct mount *mount = walk->mount, *above;

	if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
		above = BPF_CORE_READ(mount, mnt_parent);
		if (above == mount) {
			walk->whole = 1;
			return 1;
		}
		walk->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		walk->mount = above;
		return 0;
	}
	if (add_part(walk, BPF_CORE_READ(dentry, d_name.name)))
		return 1;
	parent = BPF_CORE_READ(dentry, d_parent);
	if (parent == dentry) /* a file that is in no directory, as a memfd */
		return 1;
	walk->dentry = parent;
	return 0;
}

static long up_the_cgroups(__u32 step, struct walk *walk)
{
	struct kernfs_node *node = walk->node, *parent;
	struct kernfs_node___parent *older = (void *)node;

	if (bpf_core_field_exists(node->__parent))
		parent = BPF_CORE_READ(node, __parent);
	else
		parent = BPF_CORE_READ(older, parent);
	if (!parent) {
		walk->whole = 1;
		return 1;
	}
	if (add_part(walk, BPF_CORE_READ(node, name)))
		return 1;
	walk->node = parent;
	return 0;
}

static __always_inline void tell_program(struct program *into, struct bpf_prog *prog)
{
	__builtin_memset(into, 0, sizeof(*into));
	if (!prog)
		return;
	into->id = BPF_CORE_READ(prog, aux, id);
	into->type = BPF_CORE_READ(prog, type);
	BPF_CORE_READ_INTO(&into->tag, prog, tag);
	BPF_CORE_READ_INTO(&into->name, prog, aux, name);
}

static __always_inline int is_daemon(struct task_struct *task)
{
	__u32 zero = 0, tgid = bpf_get_current_pid_tgid() >> 32;
	struct config *ours = bpf_map_lookup_elem(&config, &zero);

	return ours && ours->tick && ours->tgid == tgid &&
	       ours->started == BPF_CORE_READ(task, group_leader, start_boottime) / ours->tick;
}

/* A record to be filled in; none where the change is not to be told. */
static __always_inline struct record *begin(enum operation operation, struct hook *hook)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 index = operation;
	struct record *record;

	if (!bpf_map_lookup_elem(&hooks, hook) || is_daemon(task))
		return 0;
	record = bpf_map_lookup_elem(&drafts, &index);
	if (!record)
		return 0;
	record->hook = *hook;
	record->at = bpf_ktime_get_ns();
	record->operation = operation;
	record->attach_type = 0;
	record->link_id = 0;
	record->dying = 0;
	tell_program(&record->before, 0);
	tell_program(&record->after, 0);
	return record;
}

static __always_inline int send(struct record *record)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct walk walk = { .record = record, .most = PATHS / 2 - PART };
	struct file *executable = BPF_CORE_READ(task, mm, exe_file);
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 zero = 0;
	__u64 *count;

	record->kernel_thread = (BPF_CORE_READ(task, flags) & PF_KTHREAD) != 0;
	record->tgid = pid_tgid >> 32;
	record->pid = pid_tgid;
	record->uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(record->comm, sizeof(record->comm));
	if (executable) {
		void *mnt = BPF_CORE_READ(executable, f_path.mnt);

		walk.dentry = BPF_CORE_READ(executable, f_path.dentry);
		walk.mount = mnt - __builtin_preserve_field_info(((struct mount *)0)->mnt, BPF_FIELD_BYTE_OFFSET);
		bpf_loop(STEPS, up_the_directories, &walk, 0);
	}
	record->executable = walk.used;
	record->executable_whole = walk.whole;
	walk.most = PATHS - PART;
	walk.whole = 0;
	walk.node = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn);
	bpf_loop(STEPS, up_the_cgroups, &walk, 0);
	record->cgroup_whole = walk.whole;
	if (walk.used > PATHS)
		walk.used = PATHS; /* it is not: for the verifier */
	if (bpf_ringbuf_output(&records, record, HEAD + walk.used, 0)) {
		count = bpf_map_lookup_elem(&lost, &zero);
		if (count)
			__sync_fetch_and_add(count, 1);
	}
	return 0;
}

static __always_inline void *argument(void *ctx, __u32 index)
{
	__u64 value = 0;

	bpf_get_func_arg(ctx, index, &value);
	return (void *)value;
}

static __always_inline int failed(void *ctx)
{
	__u64 result = 0;

	bpf_get_func_ret(ctx, &result);
	return (int)result != 0;
}

static __always_inline int is_dying(struct net_device *dev)
{
	struct net_device___bitfield *older = (void *)dev;
	__u64 state;

	if (bpf_core_field_exists(older->reg_state))
		state = BPF_CORE_READ_BITFIELD_PROBED(older, reg_state);
	else
		state = BPF_CORE_READ(dev, reg_state);
	return state >= NETREG_UNREGISTERING && state <= NETREG_RELEASED;
}

/* int dev_xdp_install(dev, mode, bpf_op, extack, flags, prog). Its callers set dev->xdp_state after it. */
SEC("fexit/dev_xdp_install") int xdp_install(void *ctx)
{
	struct net_device *dev = argument(ctx, 0);
	__u32 mode = (__u64)argument(ctx, 1);
	struct hook hook = {
		.kind = XDP,
		.netns = BPF_CORE_READ(dev, nd_net.net, ns.inum),
		.id = BPF_CORE_READ(dev, ifindex),
	};
	struct bpf_xdp_entity *state = (void *)__builtin_preserve_access_index(&dev->xdp_state[0]);
	struct bpf_xdp_link *link;
	struct record *record;

	record = failed(ctx) ? 0 : begin(XDP_INSTALL, &hook);
	if (!record)
		return 0;
	state += mode;
	link = BPF_CORE_READ(state, link);
	if (link) {
		record->link_id = BPF_CORE_READ(link, link.id);
		tell_program(&record->before, BPF_CORE_READ(link, link.prog));
	} else {
		tell_program(&record->before, BPF_CORE_READ(state, prog));
	}
	tell_program(&record->after, argument(ctx, 5));
	record->dying = is_dying(dev);
	return send(record);
}

static __always_inline struct record *begin_cgroup(enum operation operation, struct cgroup *cgroup)
{
	struct hook hook = { .kind = CGROUP, .id = BPF_CORE_READ(cgroup, kn, id) };

	return begin(operation, &hook);
}

/* int __cgroup_bpf_attach(cgrp, prog, replace_prog, link, type, flags, ...) */
SEC("fexit/__cgroup_bpf_attach") int cgroup_attach(void *ctx)
{
	struct bpf_cgroup_link *link = argument(ctx, 3);
	struct record *record = failed(ctx) ? 0 : begin_cgroup(CGROUP_ATTACH, argument(ctx, 0));

	if (!record)
		return 0;
	record->attach_type = (__u64)argument(ctx, 4);
	if (link)
		record->link_id = BPF_CORE_READ(link, link.id);
	tell_program(&record->before, argument(ctx, 2));
	tell_program(&record->after, link ? BPF_CORE_READ(link, link.prog) : argument(ctx, 1));
	return send(record);
}

/* int __cgroup_bpf_detach(cgrp, prog, link, type, ...) */
SEC("fexit/__cgroup_bpf_detach") int cgroup_detach(void *ctx)
{
	struct bpf_cgroup_link *link = argument(ctx, 2);
	struct record *record = failed(ctx) ? 0 : begin_cgroup(CGROUP_DETACH, argument(ctx, 0));

	if (!record)
		return 0;
	record->attach_type = (__u64)argument(ctx, 3);
	if (link)
		record->link_id = BPF_CORE_READ(link, link.id);
	tell_program(&record->before, link ? BPF_CORE_READ(link, link.prog) : argument(ctx, 1));
	return send(record);
}

/* int cgroup_bpf_replace(link, new_prog, old_prog); old_prog is what the caller expects there, if anything. */
SEC("fexit/cgroup_bpf_replace") int cgroup_replace(void *ctx)
{
	struct bpf_cgroup_link *link = argument(ctx, 0);
	struct bpf_cgroup_link___typed *older = (void *)link;
	struct record *record = failed(ctx) ? 0 : begin_cgroup(CGROUP_REPLACE, BPF_CORE_READ(link, cgroup));

	if (!record)
		return 0;
	if (bpf_core_field_exists(older->type))
		record->attach_type = BPF_CORE_READ(older, type);
	else
		record->attach_type = BPF_CORE_READ(link, link.attach_type);
	record->link_id = BPF_CORE_READ(link, link.id);
	tell_program(&record->before, argument(ctx, 2));
	tell_program(&record->after, argument(ctx, 1));
	return send(record);
}

/* void cgroup_bpf_release(work) */
SEC("fexit/cgroup_bpf_release") int cgroup_release(void *ctx)
{
	void *cgroup = argument(ctx, 0) - __builtin_preserve_field_info(((struct cgroup *)0)->bpf.release_work,
									BPF_FIELD_BYTE_OFFSET);
	struct record *record = begin_cgroup(CGROUP_RELEASE, cgroup);

	return record ? send(record) : 0;
}

static __always_inline struct record *begin_slot(enum operation operation, void *ctx)
{
	struct hook hook = { .kind = SLOT, .id = BPF_CORE_READ((struct bpf_map *)argument(ctx, 0), id) };

	return failed(ctx) ? 0 : begin(operation, &hook);
}

/* int bpf_fd_array_map_update_elem(map, map_file, key, value, map_flags) */
SEC("fexit/bpf_fd_array_map_update_elem") int slot_update(void *ctx)
{
	struct record *record = begin_slot(SLOT_UPDATE, ctx);
	struct bpf_prog *prog = 0;

	if (!record)
		return 0;
	bpf_probe_read_kernel(&prog, sizeof(prog),
			      argument(ctx, 0) + __builtin_preserve_field_info(((struct bpf_array *)0)->ptrs,
									       BPF_FIELD_BYTE_OFFSET));
	tell_program(&record->after, prog);
	return send(record);
}

/* long fd_array_map_delete_elem(map, key) */
SEC("fexit/fd_array_map_delete_elem") int slot_delete(void *ctx)
{
	struct record *record = begin_slot(SLOT_DELETE, ctx);

	return record ? send(record) : 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";

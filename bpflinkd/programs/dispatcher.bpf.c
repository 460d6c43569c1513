// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What sits on a kprobe in place of a user's program: it tail-calls slot 0, so that one map update
 * swaps the program. A tail call replaces the program that makes it: context, attach cookie and
 * return value are the user's program's own. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} slot SEC(".maps");

/* Hits that found the slot empty. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} missed SEC(".maps");

/* Where this dispatcher was attached, for whoever opens its link again; layout: kernel/dispatcher.py.
 * The kernel's own link info does not tell before 6.6. */
const volatile struct {
	__u64 load;
	__u64 functions;
	char module[64];
} place = {};

SEC("kprobe") int bpflinkd(void *ctx)
{
	__u32 key = 0;
	__u64 *count;

	bpf_tail_call(ctx, &slot, 0);
	/* Only an empty slot comes here. */
	count = bpf_map_lookup_elem(&missed, &key);
	if (count)
		*count += 1;
	(void)place.load; /* a read, so that the section stays with the program */
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";

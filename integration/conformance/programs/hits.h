// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* One counter, and a function that adds to it. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} hits SEC(".maps");

static __always_inline void add(__u32 index, __u64 amount)
{
	__u64 *value = bpf_map_lookup_elem(&hits, &index);

	if (value)
		__sync_fetch_and_add(value, amount);
}

char _license[] SEC("license") = "Dual BSD/GPL";

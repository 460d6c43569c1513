// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Counts the frames of the lab's traffic, and drops everything. */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define TEST_ETHERTYPE 0xb588 /* 0x88b5, local experimental, in network order */

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	__u32 *key;
	__u64 *value;
	int (*max_entries)[1];
} counters SEC(".maps");

SEC("xdp") int count_drop(struct xdp_md *ctx)
{
	unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 key = 0;
	__u64 *value;

	if (data + 14 <= end && *(__u16 *)(data + 12) == TEST_ETHERTYPE) {
		value = lookup(&counters, &key);
		if (value)
			__sync_fetch_and_add(value, 1);
	}
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";

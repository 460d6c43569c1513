// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A filter with a policy in a map, counters, constants and variables; macros make its later versions. */
#include <linux/bpf.h>
#include <stdbool.h>

#ifndef ENTRIES
#define ENTRIES 64
#endif
#ifndef VALUE
#define VALUE __u32
#endif
#ifndef FLAGS
#define FLAGS 0
#endif
#ifndef ADDED
#define ADDED 1
#endif

#define SEC(name) __attribute__((section(name), used))

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;

/* by ether type in network order: the verdict */
struct {
	int (*type)[BPF_MAP_TYPE_HASH];
	__u32 *key;
	VALUE *value;
	int (*max_entries)[ENTRIES];
#if FLAGS
	int (*map_flags)[FLAGS];
#endif
} policy_by_ethertype SEC(".maps");

/* 0: packets, 1: those that a policy was about */
struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	__u32 *key;
	__u64 *value;
	int (*max_entries)[2];
} seen SEC(".maps");

const volatile __u32 otherwise = XDP_PASS;
const volatile bool enabled = true;
const volatile __s8 offset = 0;
const volatile char label[8] = "none";
const volatile __u16 ports[2] = {1, 2};

__u64 total; /* .bss */
__u64 step = 1; /* .data */

static __attribute__((always_inline)) void count(__u32 key)
{
	__u64 *value = lookup(&seen, &key);

	if (value)
		__sync_fetch_and_add(value, ADDED);
}

SEC("xdp") int filter(struct xdp_md *ctx)
{
	unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 key = 0;
	VALUE *verdict;

	count(0);
	__sync_fetch_and_add(&total, step);
	if (!enabled || label[0] == '!' || data + 14 > end)
		return XDP_PASS;
	key = *(__u16 *)(data + 12);
	verdict = lookup(&policy_by_ethertype, &key);
	if (!verdict)
		return otherwise + offset + (ports[0] > 1);
	count(1);
	return *verdict;
}

char _license[] SEC("license") = "Dual BSD/GPL";

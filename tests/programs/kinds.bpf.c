// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A program that uses a map of each type that can be copied, and one that cannot. */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define MAP(name, kind, entries)                \
	struct {                                \
		int (*type)[kind];              \
		int (*key_size)[4];             \
		int (*value_size)[4];           \
		int (*max_entries)[entries];    \
	} name SEC(".maps")

MAP(hash, BPF_MAP_TYPE_HASH, 100000);
MAP(array, BPF_MAP_TYPE_ARRAY, 1000);
MAP(percpu_hash, BPF_MAP_TYPE_PERCPU_HASH, 1000);
MAP(percpu_array, BPF_MAP_TYPE_PERCPU_ARRAY, 1000);
MAP(lru_hash, BPF_MAP_TYPE_LRU_HASH, 1000);
MAP(lru_percpu, BPF_MAP_TYPE_LRU_PERCPU_HASH, 1000);
MAP(devmap, BPF_MAP_TYPE_DEVMAP, 64);
MAP(devmap_hash, BPF_MAP_TYPE_DEVMAP_HASH, 64);
MAP(prog_array, BPF_MAP_TYPE_PROG_ARRAY, 4);

struct {
	int (*type)[BPF_MAP_TYPE_LPM_TRIE];
	int (*key_size)[8];
	int (*value_size)[4];
	int (*max_entries)[1000];
	int (*map_flags)[BPF_F_NO_PREALLOC];
} lpm_trie SEC(".maps");

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*redirect)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;
static long (*tail_call)(void *ctx, void *map, __u32 index) = (void *)BPF_FUNC_tail_call;

SEC("xdp") int kinds(struct xdp_md *ctx)
{
	__u64 key = ctx->rx_queue_index;
	long found = !!lookup(&hash, &key) + !!lookup(&array, &key) + !!lookup(&percpu_hash, &key);

	found += !!lookup(&percpu_array, &key) + !!lookup(&lru_hash, &key) + !!lookup(&lru_percpu, &key);
	found += !!lookup(&lpm_trie, &key);
	if (found == 7)
		return redirect(&devmap, key & 63, 0);
	if (found == 6)
		return redirect(&devmap_hash, key, 0);
	tail_call(ctx, &prog_array, 0);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Programs that count what they see, each in its own slot, and some that are of other types. */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;

/* slot 0: packets of the test (by their ether type), 1: all others */
struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	__u32 *key;
	__u64 *value;
	int (*max_entries)[2];
} counters SEC(".maps");

#define TEST_ETHERTYPE 0xb588 /* 0x88b5, local experimental, in network order */

static __attribute__((always_inline)) int count(struct xdp_md *ctx, int verdict)
{
	unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 key = 1;
	__u64 *value;

	if (data + 14 <= end && *(__u16 *)(data + 12) == TEST_ETHERTYPE)
		key = 0;
	value = lookup(&counters, &key);
	if (value)
		__sync_fetch_and_add(value, 1);
	return verdict;
}

SEC("xdp") int count_old(struct xdp_md *ctx)
{
	return count(ctx, XDP_PASS);
}

SEC("xdp") int count_new(struct xdp_md *ctx)
{
	return count(ctx, XDP_DROP);
}

SEC("cgroup_skb/egress") int egress_count(struct __sk_buff *skb)
{
	__u32 key = 0;
	__u64 *value = lookup(&counters, &key);

	if (value)
		__sync_fetch_and_add(value, 1);
	return 1;
}

SEC("cgroup_skb/egress") int egress_deny(struct __sk_buff *skb)
{
	return 0;
}

SEC("cgroup/connect4") int connect_ok(struct bpf_sock_addr *ctx)
{
	return 1;
}

SEC("cgroup/connect4") int connect_deny(struct bpf_sock_addr *ctx)
{
	return 0;
}

SEC("cgroup/bind4") int bind_ok(struct bpf_sock_addr *ctx)
{
	return 1;
}

SEC("xdp/devmap") int for_devmap(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp") int verifier_hates(struct xdp_md *ctx)
{
	/* reads packet data without a bounds check */
	return *(unsigned char *)(long)ctx->data;
}

SEC("unheard_of") int no_section(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";

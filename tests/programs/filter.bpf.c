// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Filters that go by what is in a map, and change what is in others: for comparing them by packets. */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static __attribute__((always_inline))

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*update)(void *map, const void *key, const void *value, __u64 flags) = (void *)BPF_FUNC_map_update_elem;
static void *(*reserve)(void *ring, __u64 size, __u64 flags) = (void *)BPF_FUNC_ringbuf_reserve;
static void (*discard)(void *data, __u64 flags) = (void *)BPF_FUNC_ringbuf_discard;

/* Source addresses of IPv4, in network order, that are let through. */
struct {
	int (*type)[BPF_MAP_TYPE_HASH];
	__u32 *key;
	__u8 *value;
	int (*max_entries)[1024];
} allowed SEC(".maps");

/* How many packets came from each. */
struct {
	int (*type)[BPF_MAP_TYPE_LRU_HASH];
	__u32 *key;
	__u64 *value;
	int (*max_entries)[1024];
} seen SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_PERCPU_ARRAY];
	__u32 *key;
	__u64 *value;
	int (*max_entries)[1];
} total SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_RINGBUF];
	int (*max_entries)[4096];
} told SEC(".maps");

__u64 packets;

INLINE void note(__u32 from)
{
	__u64 one = 1, *value = lookup(&seen, &from), *sum;
	__u32 zero = 0;
	void *record;

	if (value)
		__sync_fetch_and_add(value, 1);
	else
		update(&seen, &from, &one, BPF_ANY);
	sum = lookup(&total, &zero);
	if (sum)
		*sum += 1;
	packets++;
	record = reserve(&told, 8, 0);
	if (record)
		discard(record, 0);
}

/* The source address of a packet of IPv4, 0 for others. */
INLINE __u32 source(struct xdp_md *ctx)
{
	unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (data + 34 > end || data[12] != 8 || data[13] != 0)
		return 0;
	return *(__u32 *)(data + 26);
}

INLINE int filtered(struct xdp_md *ctx, __u32 closed_port)
{
	unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 from = source(ctx);

	if (!from)
		return XDP_PASS;
	note(from);
	if (!lookup(&allowed, &from))
		return XDP_DROP;
	if (closed_port && data + 38 <= end && data[36] * 256 + data[37] == closed_port)
		return XDP_DROP;
	return XDP_PASS;
}

SEC("xdp") int filter(struct xdp_md *ctx)
{
	return filtered(ctx, 0);
}

/* The same, without port 23. */
SEC("xdp") int no_telnet(struct xdp_md *ctx)
{
	return filtered(ctx, 23);
}

/* The same, with another byte in what goes on. */
SEC("xdp") int marks(struct xdp_md *ctx)
{
	unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	int verdict = filtered(ctx, 0);

	if (verdict == XDP_PASS && data + 14 <= end)
		data[0] ^= 2;
	return verdict;
}

/* Lets through what comes from the interface that it is told of by its number in the map. */
SEC("xdp") int by_interface(struct xdp_md *ctx)
{
	__u32 number = ctx->ingress_ifindex;

	return lookup(&allowed, &number) ? XDP_PASS : XDP_DROP;
}

SEC("cgroup_skb/egress") int egress(struct __sk_buff *skb)
{
	__u32 from = skb->remote_ip4;

	note(from);
	return 1;
}

SEC("cgroup_skb/egress") int egress_short(struct __sk_buff *skb)
{
	return skb->len < 60;
}

char _license[] SEC("license") = "Dual BSD/GPL";

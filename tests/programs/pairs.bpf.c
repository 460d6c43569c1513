// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Two programs for each of two kinds of hook, to be swapped; all let everything through. */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))

SEC("xdp") int xdp_old(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp") int xdp_new(struct xdp_md *ctx)
{
	return ctx->data ? XDP_PASS : XDP_DROP;
}

SEC("cgroup_skb/egress") int egress_old(struct __sk_buff *skb)
{
	return 1;
}

SEC("cgroup_skb/egress") int egress_new(struct __sk_buff *skb)
{
	return skb->len ? 1 : 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A program whose section says where on a cgroup it belongs. */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))

SEC("cgroup_skb/ingress") int let_in(struct __sk_buff *skb)
{
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";

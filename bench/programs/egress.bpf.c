// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Lets everything out of a cgroup. */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))

SEC("cgroup_skb/egress") int let_out(struct __sk_buff *skb)
{
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";

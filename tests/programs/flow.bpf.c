// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A program of a kind that bpflinkd has no links for. */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))

SEC("flow_dissector") int dissect(struct __sk_buff *skb)
{
	return BPF_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";

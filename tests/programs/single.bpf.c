// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* An object that holds exactly one program. */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))

SEC("xdp") int only_one(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";

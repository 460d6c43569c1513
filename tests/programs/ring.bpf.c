// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Each run writes a record with the number of the run, or counts that there was no room. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 10);
} records SEC(".maps");

__u64 runs;

SEC("xdp") int write(struct xdp_md *ctx)
{
	__u64 number = runs++;

	return bpf_ringbuf_output(&records, &number, sizeof(number), 0) ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* For bcc: counts the frames of the test, and drops them. */
BPF_ARRAY(hits, u64, 1);

int count(struct xdp_md *ctx)
{
	unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (data + 14 <= end && *(u16 *)(data + 12) == 0xb588) {
		hits.increment(0);
		return XDP_DROP;
	}
	return XDP_PASS;
}

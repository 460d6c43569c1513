// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "hits.h"

#define TEST_ETHERTYPE 0xb588 /* 0x88b5, local experimental, in network order */

SEC("xdp") int count(struct xdp_md *ctx)
{
	unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (data + 14 <= end && *(__u16 *)(data + 12) == TEST_ETHERTYPE)
		add(0, 1);
	return XDP_PASS;
}

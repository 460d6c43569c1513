// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The same for many functions at once: counts hits, and keeps the attach cookie that it was told last. */
#include "hits.h"

SEC("kprobe.multi") int count(void *ctx)
{
	__u32 index = 1;
	__u64 *cookie = bpf_map_lookup_elem(&hits, &index);

	add(0, 1);
	if (cookie)
		*cookie = bpf_get_attach_cookie(ctx);
	return 0;
}

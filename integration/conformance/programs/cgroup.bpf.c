// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "hits.h"

SEC("cgroup_skb/egress") int count(struct __sk_buff *skb)
{
	add(0, 1);
	return 1;
}

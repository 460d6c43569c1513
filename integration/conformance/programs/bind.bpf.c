// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Of a type that no other kind here takes: the wrong program everywhere. */
#include "hits.h"

SEC("cgroup/bind4") int count(struct bpf_sock_addr *ctx)
{
	add(0, 1);
	return 1;
}

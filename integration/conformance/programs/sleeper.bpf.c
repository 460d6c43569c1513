// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A program of a kprobe's type that may sleep. */
#include "hits.h"

SEC("uprobe.s") int count(void *ctx)
{
	char byte;

	bpf_copy_from_user(&byte, sizeof(byte), 0);
	add(0, 1);
	return 0;
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Programs of a kprobe's type that cannot be dispatched. */
#include "hits.h"

SEC("kprobe") int override(struct pt_regs *ctx)
{
	bpf_override_return(ctx, -1);
	return 0;
}

SEC("uprobe.s") int sleeper(void *ctx)
{
	char byte;

	bpf_copy_from_user(&byte, sizeof(byte), 0);
	return 0;
}

SEC("uprobe") int user_space(void *ctx)
{
	return 0;
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The built-in program `pass`: one for each program type, all of them let everything through.
 * The loader sets type and expected_attach_type, so the section names carry no meaning. */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define ALLOW 1

/* Above this size the kernel hands a program only a part of the value, and refuses the call unless
 * the program says that it did not look at it: Documentation/bpf/prog_cgroup_sockopt.rst. */
#define SOCKOPT_WINDOW 4096

SEC("pass/xdp") int pass_xdp(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("pass/kprobe") int pass_kprobe(void *ctx)
{
	return 0;
}

SEC("pass/cgroup_skb") int pass_skb(struct __sk_buff *skb)
{
	return ALLOW;
}

SEC("pass/cgroup_sock") int pass_sock(struct bpf_sock *sk)
{
	return ALLOW;
}

SEC("pass/sock_ops") int pass_sock_ops(struct bpf_sock_ops *ops)
{
	return ALLOW;
}

SEC("pass/cgroup_device") int pass_device(struct bpf_cgroup_dev_ctx *ctx)
{
	return ALLOW;
}

SEC("pass/cgroup_sock_addr") int pass_sock_addr(struct bpf_sock_addr *ctx)
{
	return ALLOW;
}

SEC("pass/cgroup_sysctl") int pass_sysctl(struct bpf_sysctl *ctx)
{
	return ALLOW;
}

SEC("pass/cgroup_sockopt") int pass_sockopt(struct bpf_sockopt *ctx)
{
	if (ctx->optlen > SOCKOPT_WINDOW)
		ctx->optlen = 0;
	return ALLOW;
}

char _license[] SEC("license") = "Dual BSD/GPL";

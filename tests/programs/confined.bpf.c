// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Programs that anybody may load, and some that read the kernel's memory, each in its own way. */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*probe_read_kernel)(void *to, __u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static void *(*skc_to_tcp_sock)(void *sk) = (void *)BPF_FUNC_skc_to_tcp_sock;

/* To void, which is BTF id 0, it makes any number a pointer that may be read. */
extern void *bpf_rdonly_cast(const void *from, __u32 btf_id) __attribute__((section(".ksyms")));

#define SOMEWHERE ((void *)0xffffffff81000000ULL)

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	__u32 *key;
	__u64 *value;
	int (*max_entries)[2];
} values SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_PROG_ARRAY];
	__u32 *key;
	__u32 *value;
	int (*max_entries)[4];
} unused_slots SEC(".maps");

static volatile const __u32 verdict = XDP_PASS;

static __attribute__((always_inline)) void tell(__u64 value)
{
	__u32 key = 0;
	__u64 *slot = lookup(&values, &key);

	if (slot)
		*slot = value;
}

SEC("xdp") int plain(struct xdp_md *ctx)
{
	tell(1);
	return verdict;
}

SEC("cgroup_skb/egress") int egress(struct __sk_buff *skb)
{
	tell(1);
	return 1;
}

SEC("cgroup_skb/ingress") int ingress(struct __sk_buff *skb)
{
	return 1;
}

SEC("kprobe") int traced(void *ctx)
{
	__u64 word = 0;

	probe_read_kernel(&word, sizeof(word), SOMEWHERE);
	tell(word);
	return 0;
}

SEC("xdp") int by_helper(struct xdp_md *ctx)
{
	__u64 word = 0;

	probe_read_kernel(&word, sizeof(word), SOMEWHERE);
	tell(word);
	return XDP_PASS;
}

SEC("cgroup/connect4") int by_btf_pointer(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	__u64 *tcp;

	if (!sk)
		return 1;
	tcp = skc_to_tcp_sock(sk);
	if (tcp)
		tell(*tcp);
	return 1;
}

SEC("xdp") int by_pointer_in_map(struct xdp_md *ctx)
{
	tell((__u64)(long)ctx);
	return XDP_PASS;
}

SEC("xdp") int by_kfunc(struct xdp_md *ctx)
{
	tell(*(__u64 *)bpf_rdonly_cast(SOMEWHERE, 0));
	return XDP_PASS;
}

static __attribute__((noinline)) __u64 cast_and_read(__u64 place)
{
	return *(__u64 *)bpf_rdonly_cast((void *)place, 0);
}

SEC("xdp") int by_kfunc_in_subprogram(struct xdp_md *ctx)
{
	tell(cast_and_read((__u64)SOMEWHERE));
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";

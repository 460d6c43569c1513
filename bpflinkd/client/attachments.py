"""What somebody else attached, as a client names it to take it over."""

from typing import NamedTuple, TypeAlias


class KernelLink(NamedTuple):
    """A bpf_link, by its kernel id."""

    id: int


class PinnedLink(NamedTuple):
    """A bpf_link that is pinned on a bpffs."""

    path: str


class NetlinkXdp(NamedTuple):
    """The XDP program that an interface was given by netlink, as `ip link set ... xdp` does."""

    interface: str


Attachment: TypeAlias = KernelLink | PinnedLink | NetlinkXdp

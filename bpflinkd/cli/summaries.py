"""Packets in a few words, by dpkt: addresses, protocol, ports, length."""

from __future__ import annotations

import socket
from typing import Any, Final

import dpkt

_FLAGS: Final = (("SYN", 2), ("FIN", 1), ("RST", 4))
_ICMP: Final = {0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded"}
_ICMP6: Final = {1: "unreachable", 128: "echo request", 129: "echo reply", 135: "neighbor", 136: "neighbor"}


def summary(data: bytes) -> str:
    """One line on a frame, whatever it holds."""
    length = f"{len(data)} bytes"
    try:
        return f"{_frame(dpkt.ethernet.Ethernet(data))}, {length}"
    except Exception:  # dpkt parses what strangers sent, and meets errors of all kinds  # noqa: BLE001, RUF100
        kind = f"type {data[12:14].hex()}" if len(data) >= 14 else "no whole Ethernet header"
        return f"{kind}, {length}"


def _frame(frame: Any) -> str:
    tags = "".join(f" vlan {tag.id}" for tag in getattr(frame, "vlan_tags", ()))
    packet = frame.data
    if isinstance(packet, dpkt.ip.IP | dpkt.ip6.IP6):
        return _ip(packet) + tags
    if isinstance(packet, dpkt.arp.ARP):
        asks = f"who has {_address(packet.tpa)}" if packet.op == 1 else f"{_address(packet.spa)} is there"
        return f"ARP {asks}{tags}"
    return f"{_mac(frame.src)} > {_mac(frame.dst)} type {frame.type:04x}{tags}"


def _ip(packet: Any) -> str:
    source, target = _address(packet.src), _address(packet.dst)
    inner = packet.data
    match inner:
        case dpkt.tcp.TCP():
            flags = "".join(f" {name}" for name, bit in _FLAGS if inner.flags & bit)
            return f"{_port(source, inner.sport)} > {_port(target, inner.dport)} TCP{flags}"
        case dpkt.udp.UDP():
            return f"{_port(source, inner.sport)} > {_port(target, inner.dport)} UDP"
        case dpkt.icmp.ICMP():
            return f"{source} > {target} ICMP {_ICMP.get(inner.type, inner.type)}"
        case dpkt.icmp6.ICMP6():
            return f"{source} > {target} ICMPv6 {_ICMP6.get(inner.type, inner.type)}"
        case _:
            return f"{source} > {target} protocol {packet.p}"


def _port(address: str, number: int) -> str:
    return f"[{address}]:{number}" if ":" in address else f"{address}:{number}"


def _address(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(raw) == 16 else socket.AF_INET, raw)


def _mac(raw: bytes) -> str:
    return raw.hex(":")

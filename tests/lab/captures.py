"""Packets and captures, made by dpkt."""

import socket
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import dpkt


def udp(source: str, port: int, size: int = 18) -> bytes:
    """A frame with a UDP packet of so many bytes, to 10.0.0.9 or fd00::9."""
    inner = dpkt.udp.UDP(sport=999, dport=port, data=b"x" * size)
    inner.ulen = len(inner)
    if ":" in source:
        addresses = (socket.inet_pton(socket.AF_INET6, word) for word in (source, "fd00::9"))
        src, dst = addresses
        packet = dpkt.ip6.IP6(src=src, dst=dst, nxt=17, plen=len(inner), hlim=64, data=inner)
        return bytes(dpkt.ethernet.Ethernet(src=b"\2" * 6, dst=b"\2" * 6, type=0x86DD, data=packet))
    packet = dpkt.ip.IP(
        src=socket.inet_aton(source), dst=socket.inet_aton("10.0.0.9"), p=17, ttl=64, data=inner
    )
    return bytes(dpkt.ethernet.Ethernet(src=b"\2" * 6, dst=b"\2" * 6, type=0x0800, data=packet))


def arp() -> bytes:
    """A frame that asks for an address."""
    asks = dpkt.arp.ARP(spa=bytes((10, 0, 0, 1)), tpa=bytes((10, 0, 0, 9)), sha=b"\2" * 6, tha=bytes(6))
    return bytes(dpkt.ethernet.Ethernet(src=b"\2" * 6, dst=b"\xff" * 6, type=0x0806, data=asks))


def pcap(packets: Iterable[bytes], *, link_type: int = 1, nano: bool = False, snaplen: int = 65535) -> bytes:
    """A capture with a packet each second from 1,700,000,000 on."""
    file = BytesIO()
    writer = dpkt.pcap.Writer(file, linktype=link_type, nano=nano, snaplen=snaplen)
    for number, packet in enumerate(packets):
        writer.writepkt(packet, ts=1_700_000_000 + number)
    return file.getvalue()


def pcapng(packets: Iterable[bytes], *, link_type: int = 1) -> bytes:
    """The same as Wireshark writes it."""
    file = BytesIO()
    interface = dpkt.pcapng.InterfaceDescriptionBlockLE(linktype=link_type)
    writer = dpkt.pcapng.Writer(file, idb=interface)
    for number, packet in enumerate(packets):
        writer.writepkt(packet, ts=1_700_000_000 + number)
    return file.getvalue()


def written(place: Path, data: bytes) -> Path:
    """A file with these bytes."""
    place.write_bytes(data)
    return place

"""Link-layer addresses as people write them. Pure."""


def mac_text(address: bytes) -> str:
    """`02:00:5e:10:00:00`; empty where it is none.

    Ethernet has 6 bytes, IEEE 802.15.4 and FireWire 8, InfiniBand 20. Shorter ones are none, and
    tunnels put an IPv4 or IPv6 address (4 or 16 bytes) in its place.
    """
    return address.hex(":") if len(address) >= 6 and len(address) != 16 else ""

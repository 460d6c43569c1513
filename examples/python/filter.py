"""Attach a program to an interface, swap it for another, detach.

usage: filter.py INTERFACE OBJECT OLD NEW
"""

import sys

from bpflinkd.client import Client, ClientError, Object


def main(interface: str, path: str, old: str, new: str) -> None:
    """Programs `old` and `new` are functions of one ELF object."""
    with Client() as bpflinkd:
        bpflinkd.attach("example", f"xdp:{interface}", Object(path, old))
        print("attached", old)
        generation = bpflinkd.replace("example", Object(path, new), expect=1)
        print("generation", generation, "runs", new)
        bpflinkd.detach("example")
        print("detached")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ClientError as error:
        sys.exit(f"{error.name}: {error}\n{error.log}".rstrip())

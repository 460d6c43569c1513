"""Swaps that are all under way at once: `python -m bench.swapper BUS LINK PIN PIN COUNT`.

A process of its own, so that sending them does not hold up the one that measures. Says "sent" when
the daemon has them, and ends with the last reply.
"""

import itertools
import sys
from pathlib import Path

from gi.repository import Gio, GLib

from bench.client import Client, replace_arguments
from tests.lab.daemon import MANAGER, ROOT


def main(address: str, name: str, pins: tuple[Path, Path], count: int) -> None:
    """Send all, then wait for all; a refusal ends it."""
    connection, loop = Client(address).connection, GLib.MainLoop()
    left = count
    refusals: list[str] = []

    def answered(source: Gio.DBusConnection, result: Gio.AsyncResult) -> None:
        nonlocal left
        try:
            source.call_finish(result)
        except GLib.Error as error:
            refusals.append(error.message)
        left -= 1
        if left == 0:
            loop.quit()

    turns = itertools.cycle(replace_arguments(name, pins))
    for arguments in itertools.islice(turns, count):
        connection.call("org.bpflinkd1", ROOT, MANAGER, "Replace", arguments, None, 0, 60_000, None, answered)
    connection.flush_sync(None)
    print("sent", flush=True)
    loop.run()
    if refusals:
        sys.exit(f"{len(refusals)} of {count} swaps were refused: {refusals[0]}")


if __name__ == "__main__":
    _, bus, link, first, second, number = sys.argv
    main(bus, link, (Path(first), Path(second)), int(number))

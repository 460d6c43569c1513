"""What a reboot leaves of a private daemon's links: the state directory, and nothing in the kernel."""

import sqlite3

from tests.lab.daemon import Daemon


def after_reboot(daemon: Daemon) -> None:
    """Stop, take away what a reboot takes, and start in what looks like another boot."""
    daemon.end()
    for place in sorted(daemon.pins.rglob("*"), reverse=True):
        place.rmdir() if place.is_dir() else place.unlink()
    state = sqlite3.connect(daemon.state_dir / "bpflinkd.sqlite")
    with state:
        state.execute("UPDATE boot SET id = 'an earlier boot'")
        state.execute(
            "UPDATE generation SET trial = json_set(trial, '$.boot', 'an earlier boot') WHERE trial NOT NULL"
        )
    state.close()
    daemon.start()

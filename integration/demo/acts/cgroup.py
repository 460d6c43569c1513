"""The same on a cgroup: count, deny, let go, with a process that talks in it."""

import json
import subprocess
import sys
from typing import Final

from integration.demo.needs import ROOT
from integration.demo.stage import LINK, Broken, Stage
from tests.lab.maps import Counters

TITLE: Final = "A cgroup"
PROMISE: Final = "A cgroup link is swapped and let go likewise"

NAME: Final = "guard"
DATAGRAMS: Final = 1000


def play(stage: Stage) -> str:
    """Count a process's datagrams, deny them, and set it free."""
    cgroup = stage.cgroup()
    stage.ctl("attach", NAME, f"cgroup:{cgroup}", "--object", "count.bpf.o", "--program", "egress_count")
    counters = Counters(stage.daemon.pins / NAME / "maps" / "counters")
    try:
        sent = _talk(stage, cgroup, allowed=True)["sent"]
        counted = counters[0]
    finally:
        counters.close()
    stage.hold(counted == sent, f"{sent} datagrams left the cgroup, but {counted} were counted")
    stage.ctl("replace", NAME, "--object", "count.bpf.o", "--program", "egress_deny")
    denied = _talk(stage, cgroup, allowed=False)["refused"]
    stage.ctl("detach", NAME)
    received = _talk(stage, cgroup, allowed=True)["received"]
    stage.ctl("detach", LINK)
    stage.ctl("list")
    pins = sorted(stage.daemon.pinned())
    stage.hold(not pins, f"pins are left after the last detach: {', '.join(pins)}")
    return (
        f"{sent:,} datagrams sent = {counted:,} counted; after the swap {denied:,} of "
        f"{DATAGRAMS:,} denied; after detach {received:,} of {DATAGRAMS:,} received"
    )


def _talk(stage: Stage, cgroup: str, *, allowed: bool) -> dict[str, int]:
    """Have a process in the cgroup send its datagrams on loopback; returns the tally."""
    talker = (
        sys.executable,
        "-m",
        "integration.demo.talker",
        str(stage.world.cgroup_dir(cgroup)),
        str(DATAGRAMS),
    )
    done = subprocess.run(
        stage.world.inside(*talker), check=False, cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    stage.interrupts.check()
    if done.returncode != 0:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise Broken(f"the process in the cgroup ended with exit code {done.returncode}: {last}")
    tally: dict[str, int] = json.loads(done.stdout)
    stage.tell(
        f"UDP on loopback from within: {', '.join(f'{number} {what}' for what, number in tally.items())}"
    )
    wanted = DATAGRAMS if allowed else 0
    stage.hold(
        tally == {"sent": wanted, "received": wanted, "refused": DATAGRAMS - wanted},
        f"of {DATAGRAMS} datagrams, {tally}",
    )
    return tally

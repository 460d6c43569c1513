"""Somebody else severs the link and takes the hook: the daemon tells, and evicts nobody unasked."""

import subprocess
import time
from typing import Final

from gi.repository import GLib

from integration.demo.needs import BPFLINKCTL
from integration.demo.stage import LINK, NEAR, SWEEP, Stage

TITLE: Final = "A stranger on our hook"
PROMISE: Final = "A foreign change is told; the owner gets the hook back"

_STRANGER: Final = "only_one"


def play(stage: Stage) -> str:
    """Sever, displace, tell, take back."""
    events = _Events(stage)
    link_id = stage.link()["KernelLinkId"]
    stage.tell(f"The daemon of this demo sweeps every {SWEEP:g} s.")
    at = time.monotonic()
    stage.shell("bpftool", "link", "detach", "id", str(link_id))
    stage.await_state("severed")
    severed = time.monotonic() - at
    at = time.monotonic()
    ip = ("ip", "-n", stage.world.netns, "link", "set", "dev", NEAR, "xdp")
    stage.shell(*ip, "obj", "single.bpf.o", "sec", "xdp")
    running = stage.await_state("displaced")["Running"]["program"]
    displaced = time.monotonic() - at
    stage.hold(running["name"] == _STRANGER, f"the daemon takes {running} for the stranger")
    stage.ctl("list")
    listed = stage.ctl("foreign")
    stage.hold(_STRANGER in listed, f"`bpflinkctl foreign` does not name {_STRANGER}")
    stage.tell("The owner may not push a stranger off unasked:")
    pin = str(stage.filters[-1].pin)
    stage.ctl("replace", LINK, "--pinned", pin, code=1)
    stage.hold(stage.link()["State"] == "displaced", "the refused replace changed the hook")
    stage.tell("So the stranger is asked to leave, and the owner takes the hook back:")
    stage.shell(*ip, "off")
    stage.await_state("severed")
    stage.ctl("replace", LINK, "--pinned", pin)
    back = stage.await_state("active")
    stage.tell("Meanwhile `bpflinkctl events` said:")
    said = events.end()
    stage.show(said)
    for word in ("severed", "displaced", _STRANGER):
        stage.hold(word in said, f"`bpflinkctl events` did not say {word!r}")
    stage.hold(_told_back(said), "`bpflinkctl events` did not say that the link is active again")
    counted = stage.counted()
    sender = stage.sender()
    stage.interrupts.nap(0.1)
    sent = sender.stop()
    seen = stage.settled(lambda: stage.counted() - counted, sent)
    stage.hold(sent == seen, f"after the link is back: sent {sent:,}, but counted {seen:,}")
    return (
        f"severed seen after {severed:.2f} s, displaced by {_STRANGER} after {displaced:.2f} s; back as "
        f"bpf_link {back['KernelLinkId']}, and {sent:,} frames sent = {seen:,} counted"
    )


class _Events:
    """`bpflinkctl events`, followed in the background."""

    def __init__(self, stage: Stage) -> None:
        """Start it, and wait until it listens."""
        self._file = stage.world.dir / "events.log"
        self._stage = stage
        names = self._on_the_bus()
        stage.tell("$ bpflinkctl events &")
        with self._file.open("w") as file:
            self._process = stage.world.process(
                BPFLINKCTL, "--bus", stage.world.bus, "events", stdout=file, stderr=subprocess.STDOUT
            )
        connected = stage.interrupts.wait_for(lambda: self._on_the_bus() > names or self._ended())
        stage.hold(connected, "`bpflinkctl events` does not connect to the bus")
        # Between its connecting and its subscribing there is nothing to wait for.
        stage.interrupts.nap(0.5)
        self._insist()

    def end(self) -> str:
        """End it when it has told of the last change; returns what it printed."""
        self._stage.interrupts.wait_for(lambda: _told_back(self._said()), 2)
        self._insist()
        self._process.terminate()
        self._process.wait(10)
        return self._said()

    def _insist(self) -> None:
        self._stage.hold(
            not self._ended(),
            f"`bpflinkctl events` ended with exit code {self._process.returncode}: {self._said()}",
        )

    def _ended(self) -> bool:
        return self._process.poll() is not None

    def _said(self) -> str:
        return self._file.read_text(errors="replace")

    def _on_the_bus(self) -> int:
        return len(self._stage.daemon.bus_call("ListNames", GLib.Variant("()", ()))[0])


def _told_back(said: str) -> bool:
    """Whether the events tell that the link was active again after it was displaced."""
    return "active" in said.rpartition("displaced")[2]

"""A link of our own: the built-in program on an interface."""

from typing import Final

from integration.demo.stage import LINK, NEAR, Stage

TITLE: Final = "A link of our own"
PROMISE: Final = "A named, pinned link is owned by the daemon"


def play(stage: Stage) -> str:
    """Attach `pass` and look at it."""
    stage.ctl("attach", LINK, f"xdp:{NEAR}", "--builtin", "pass")
    stage.ctl("list")
    link = stage.link()
    stage.hold(link["State"] == "active", f"the link is {link['State']}, not active")
    stage.hold(link["Generation"] == 1, f"the link is at generation {link['Generation']}, not 1")
    pinned = stage.daemon.pins / LINK / "link"
    stage.hold(pinned.exists(), f"there is no pin {pinned}")
    return f"link {LINK} is active as bpf_link {link['KernelLinkId']}, program {link['Program']['name']}"

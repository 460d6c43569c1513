"""kill -9 with traffic flowing: the kernel goes on, and the next daemon takes the link back."""

from typing import Final

from integration.demo.stage import Stage

TITLE: Final = "kill -9, and back"
PROMISE: Final = "A killed daemon loses no frame and no link"


def play(stage: Stage) -> str:
    """Kill and start the daemon while frames arrive."""
    before, counted = stage.link(), stage.counted()
    sender = stage.sender()
    stage.interrupts.nap(0.3)
    assert stage.daemon.process is not None
    stage.tell(f"$ kill -9 {stage.daemon.process.pid}   (frames go on arriving)")
    stage.daemon.kill()
    at_kill = stage.counted()
    stage.interrupts.nap(0.5)
    alone = stage.counted() - at_kill
    stage.daemon.start()
    stage.tell(f"{alone:,} frames were counted while no daemon ran. It is started again:")
    stage.ctl("list")
    after = stage.await_state("active")
    sent = sender.stop()
    seen = stage.settled(lambda: stage.counted() - counted, sent)
    for key in ("Generation", "KernelLinkId"):
        stage.hold(after[key] == before[key], f"{key} was {before[key]} before the kill, and is {after[key]}")
    program, same = after["Program"]["id"], before["Program"]["id"]
    stage.hold(program == same, f"program id {same} ran before the kill, and now {program}")
    stage.hold(alone > 0, "no frame was counted while no daemon ran")
    stage.hold(sent == seen, f"sent {sent:,}, but counted {seen:,}")
    return (
        f"sent {sent:,} = counted {seen:,}, {alone:,} of them without a daemon; still bpf_link "
        f"{after['KernelLinkId']}, generation {after['Generation']}"
    )

"""`python -m integration.demo`: checks what is needed, then supervises the telling of the story.

The story runs in a session of its own: Ctrl-C in a terminal goes to everything in the foreground, and
would end `umount` or `ip netns del` in the middle of the cleaning up. Only this process is in the
foreground; it hands a signal to the story, and the story stops when it knows what it has to undo.
"""

import signal

# First of all, before slow imports: no signal ends us before there is somebody to hand it to.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD})

import subprocess  # noqa: E402
import sys  # noqa: E402

from integration.demo import needs  # noqa: E402
from integration.demo.interrupts import STOPPING  # noqa: E402


def main() -> int:
    """Run the story to its end, whoever wants to stop it; returns its exit code."""
    missing = needs.missing()
    if missing:
        for sentence in missing:
            print(f"demo: {sentence}", file=sys.stderr)
        return 1
    heeded = {number for number in STOPPING if number != signal.SIGHUP or not _under_nohup()}
    story = subprocess.Popen(
        [sys.executable, "-m", "integration.demo.story"], cwd=needs.ROOT, start_new_session=True
    )
    while story.poll() is None:
        number = signal.sigwait(heeded | {signal.SIGCHLD})
        if number != signal.SIGCHLD:
            story.send_signal(number)
    if story.returncode < 0:
        print(
            f"demo: the story was ended by {signal.Signals(-story.returncode).name}; `ip netns`, `mount` and "
            "/tmp may still have what is named bpflinkd-*",
            file=sys.stderr,
        )
        return 1
    return story.returncode


def _under_nohup() -> bool:
    return signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


if __name__ == "__main__":
    sys.exit(main())

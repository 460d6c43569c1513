"""The story from the making of its world to the table at the end; run by `integration.demo`."""

import sys
import time
from types import ModuleType
from typing import Final

from bpflinkd.core.errors import BpflinkdError
from integration.demo.acts import cgroup, crash, own, refusal, stranger, swap
from integration.demo.interrupts import Interrupted, Interrupts
from integration.demo.narrator import Narrator, Promise, Verdict
from integration.demo.residue import Residue
from integration.demo.stage import Broken, Stage
from tests.lab import World
from tests.lab.daemon import Refused

ACTS: Final[tuple[ModuleType, ...]] = (own, swap, crash, stranger, refusal, cgroup)
"""Each has TITLE, PROMISE and `play(stage)`, which returns what it measured or raises `Broken`."""

_LOG_LINES: Final = 15


class Story:
    """One telling."""

    def __init__(self, narrator: Narrator, interrupts: Interrupts) -> None:
        """Promise everything, nothing shown yet."""
        self._narrator = narrator
        self._interrupts = interrupts
        self._promises = [Promise(act.PROMISE) for act in ACTS]
        self._tidy = Promise("Nothing is left behind")
        self._world = World()
        self._residue = Residue(self._world)

    def tell(self) -> int:
        """Tell it; returns the exit code."""
        began = time.monotonic()
        stopped: Interrupted | None = None
        try:
            self._interrupts.check()
            with self._world as world:
                self._residue.add_directory(world.dir)
                self._play(world)
        except Interrupted as stop:
            stopped = stop
        except Exception as error:
            self._narrator.failed(f"The world of the demo: {_sentence(error)}")
        self._look_back()
        if stopped is not None:
            self._narrator.failed(f"The demo was {stopped}. {self._tidy.measured.capitalize()}.")
            return stopped.exit_code
        everything = [*self._promises, self._tidy]
        self._narrator.summary(everything, time.monotonic() - began)
        return 0 if all(promise.verdict is Verdict.KEPT for promise in everything) else 1

    def _play(self, world: World) -> None:
        stage: Stage | None = None
        promise, place = self._promises[0], "making the world"
        try:
            self._narrator.opening(
                f"In a network namespace ({world.netns}) and a directory ({world.dir}) of its own: "
                "a private bus, a bpffs, a veth pair and a bpflinkd. Each bpflinkctl also had "
                "--bus ADDRESS; all else is as it ran."
            )
            stage = Stage(world, self._residue, self._narrator, self._interrupts)
            for number, act in enumerate(ACTS, 1):
                promise, place = self._promises[number - 1], f"step {number}"
                self._narrator.chapter(number, act.TITLE)
                promise.measured = act.play(stage)
                promise.verdict = Verdict.KEPT
                self._narrator.kept(promise.measured)
        except Interrupted:
            raise
        except Exception as error:
            self._interrupts.check()
            promise.verdict, promise.measured = Verdict.BROKEN, _sentence(error)
            self._narrator.failed(f"Broken at {place}: {promise.measured}")
            self._show_log(world)
        finally:
            if stage is not None:
                stage.close()

    def _show_log(self, world: World) -> None:
        log = world.dir / "daemon.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        self._narrator.failed(
            f"The daemon's log, its last {_LOG_LINES} lines:" if lines else "The daemon said nothing."
        )
        self._narrator.output("\n".join(lines[-_LOG_LINES:]))

    def _look_back(self) -> None:
        left = self._residue.left()
        self._tidy.verdict = Verdict.BROKEN if left else Verdict.KEPT
        self._tidy.measured = (
            f"left behind: {', '.join(left)}"
            if left
            else "no process, namespace, mount, cgroup, directory or bpf_link of the demo is left"
        )


def _sentence(error: Exception) -> str:
    """An error as a sentence; a bare `KeyError: 'x'` needs its kind."""
    if isinstance(error, Broken | Refused | BpflinkdError | RuntimeError | TimeoutError):
        return " ".join(str(error).split())
    return f"{type(error).__name__}: {error}"


def main() -> int:
    """Tell the story once."""
    interrupts = Interrupts()
    return Story(Narrator(interrupts), interrupts).tell()


if __name__ == "__main__":
    sys.exit(main())

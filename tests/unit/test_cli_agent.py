"""When polkit's agent for the terminal is started, and that it ends with us.

The agent here is a FAKE: a shell script called pkttyagent that tells how it was called. That the real one
asks a real user is for the tests under systemd to show.
"""

import io
import os
import pty
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpflinkd.cli.agent import Agent

FAKE = """#!/bin/bash
echo "$PPID $*" > {told}
eval "exec $2>&-"
exec sleep 60
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the fake tells how it was called; a user who is not root sits at a terminal."""
    path = tmp_path / "told"
    script = tmp_path / "pkttyagent"
    script.write_text(FAKE.format(told=path))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    far, near = pty.openpty()
    with os.fdopen(near) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        yield path
    os.close(far)


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_it_is_ours_and_ends_with_us(told: Path) -> None:
    before = _children()
    agent = Agent()
    parent, *words = told.read_text().split()
    assert int(parent) == os.getpid(), "polkit takes the agent's parent for whom it is there"
    assert words[0] == "--notify-fd"
    (started,) = _children() - before
    agent.close()
    assert not Path(f"/proc/{started}").exists()


def test_one_that_fails_is_not_waited_for(told: Path) -> None:
    (told.parent / "pkttyagent").write_text("#!/bin/sh\nexit 1\n")
    begun = time.monotonic()
    Agent().close()
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("why", ["root", "no terminal", "no stdin", "not installed"])
def test_it_is_not_started_where_nobody_needs_it(
    told: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    match why:
        case "root":
            monkeypatch.setattr(os, "geteuid", lambda: 0)
        case "no terminal":
            monkeypatch.setattr("sys.stdin", io.StringIO())
        case "no stdin":
            monkeypatch.setattr("sys.stdin", None)
        case _:
            monkeypatch.setenv("PATH", "/nonexistent")
    Agent().close()
    assert not told.exists()

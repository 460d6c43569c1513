"""The demo is what newcomers see first: it works, also when it is stopped half-way."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "integration.demo"]


def residue() -> set[str]:
    """What is named after a lab on this machine."""
    mounts = Path("/proc/self/mountinfo").read_text().split()
    found = [str(place) for place in (*Path("/run/netns").glob("*"), *Path("/tmp").glob("bpflinkd-*"))]
    return {name for name in (*mounts, *found) if "bpflinkd-" in name}


@pytest.mark.timeout(180)
def test_demo_keeps_every_promise() -> None:
    before = residue()
    done = subprocess.run(DEMO, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "broken" not in done.stdout
    assert done.stdout.count("kept") > 7
    assert residue() <= before


@pytest.mark.timeout(180)
@pytest.mark.parametrize("after", [0.3, 2.0, 5.0])
def test_demo_that_is_interrupted_cleans_up(after: float) -> None:
    before = residue()
    demo = subprocess.Popen(DEMO, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        demo.wait(after)
    except subprocess.TimeoutExpired:
        demo.send_signal(signal.SIGINT)
    said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, said
    assert "Traceback" not in said
    assert residue() <= before

"""What a full collection walks through."""

import subprocess
import sys

SCRIPT = """
import gc
from bpflinkd import garbage

class Cycle:
    def __init__(self):
        self.me, self.more = self, [[] for _ in range(10_000)]

garbage.begin()
before = gc.get_freeze_count()
kept = Cycle()
gc.collect()
assert gc.get_freeze_count() > before + 10_000, "what is alive is set aside"
del kept
assert gc.collect() < 10_000
garbage.look_at_all()
assert gc.collect() > 10_000, "and looked at again when it is asked for"
"""


def test_what_is_alive_is_walked_through_once() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

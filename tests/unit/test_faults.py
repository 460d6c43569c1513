"""What strace tells of a process that it kills, as tests/lab reads it."""

import pytest

from tests.lab.faults import Call, without_echo

PIN, DETACH = "BPF_OBJ_PIN", "BPF_LINK_DETACH"
MADE = Call(7, "bpf", 1, PIN), Call(7, "bpf", 2, DETACH)


@pytest.mark.parametrize(
    ("told", "made"),
    [
        pytest.param((), (), id="nothing"),
        pytest.param(MADE[:1], MADE[:1], id="one call"),
        pytest.param(MADE, MADE, id="calls of one thread"),
        pytest.param((*MADE, Call(6, "bpf", 1, DETACH)), MADE, id="the last one twice"),
        pytest.param((MADE[0], Call(6, "bpf", 1, DETACH), MADE[1]), MADE, id="the other thread first"),
        pytest.param(
            (*MADE, Call(6, "bpf", 1, PIN)), (*MADE, Call(6, "bpf", 1, PIN)), id="another call is no echo"
        ),
    ],
)
def test_the_call_that_killed_is_told_once(told: tuple[Call, ...], made: tuple[Call, ...]) -> None:
    assert without_echo(told) == made

"""What strace tells of a process that it kills, as tests/lab reads it."""

import pytest

from tests.lab.faults import Call, without_echo

PIN, DETACH = "BPF_OBJ_PIN", "BPF_LINK_DETACH"
OTHER = Call(6, "mkdir", 1, "maps")
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
        pytest.param(
            (OTHER, *MADE, Call(6, "bpf", 1, DETACH)),
            (OTHER, *MADE, Call(6, "bpf", 1, DETACH)),
            id="a thread that made calls before does make this one",
        ),
    ],
)
def test_the_call_that_killed_is_told_once(told: tuple[Call, ...], made: tuple[Call, ...]) -> None:
    assert without_echo(told, {"bpf": 2}) == made


@pytest.mark.parametrize("kill_at", [{}, {"bpf": 3}, {"rename": 2}])
def test_where_it_did_not_kill_there_both_threads_made_the_call(kill_at: dict[str, int]) -> None:
    told = (*MADE, Call(6, "bpf", 1, DETACH))
    assert without_echo(told, kill_at) == told

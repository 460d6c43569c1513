"""What a start makes of every half-done change: before or after, never between."""

import pytest

from bpflinkd.core.actions import (
    EndLink,
    ForgetIntent,
    Promote,
    RemovePins,
    RemoveRecord,
    SaveDone,
    SetAside,
)
from bpflinkd.core.ids import NO_PROGRAM
from bpflinkd.core.model import Record
from bpflinkd.core.ports import Pinned, Stored
from bpflinkd.core.recovery import recover
from tests.unit.fakes import HOOK, FakeLink, FakeProgram, record

ONE, TWO = record(1, 1), record(2, 2)


def pins(
    link: int | None = None,
    program: int | None = None,
    staged_link: int | None = None,
    staged_program: int | None = None,
    *,
    detached: bool = False,
) -> Pinned:
    hook = None if detached else HOOK
    return Pinned(
        link=FakeLink(link, hook) if link else None,
        program=FakeProgram(program) if program else None,
        staged_link=FakeLink(staged_link, hook) if staged_link else None,
        staged_program=FakeProgram(staged_program) if staged_program else None,
    )


def stored(now: Record | None = ONE, intent: Record | None = None, *, ending: bool = False) -> Stored:
    return Stored(record=now, intent=intent, ending=ending)


FINISH = [SaveDone, Promote]
ERASE = [RemovePins, RemoveRecord]


@pytest.mark.parametrize(
    ("item", "found", "generation", "actions", "runs"),
    [
        pytest.param(stored(), pins(1, 1), 1, [], 1, id="a plain stop"),
        pytest.param(stored(), pins(), 1, [], None, id="after a reboot"),
        pytest.param(stored(None, ONE), pins(), None, ERASE, None, id="attach: only intended"),
        pytest.param(
            stored(None, ONE), pins(staged_program=1), None, ERASE, None, id="attach: program staged"
        ),
        pytest.param(
            stored(None, ONE), pins(None, None, 1, 1), 1, FINISH, 1, id="attach: link made, not recorded"
        ),
        pytest.param(stored(), pins(None, None, 1, 1), 1, FINISH, 1, id="attach: not promoted"),
        pytest.param(stored(ONE, TWO), pins(1, 1), 1, [ForgetIntent], 1, id="replace: only intended"),
        pytest.param(
            stored(ONE, TWO), pins(1, 1, None, 2), 1, [ForgetIntent], 1, id="replace: program staged"
        ),
        pytest.param(
            stored(ONE, TWO), pins(2, 1, None, 2), 2, FINISH, 2, id="replace: swapped, not recorded"
        ),
        pytest.param(stored(TWO), pins(2, 1, None, 2), 2, FINISH, 2, id="replace: not promoted"),
        pytest.param(stored(TWO), pins(2, 2, None, None), 2, [], 2, id="replace: half promoted"),
        pytest.param(
            stored(TWO), pins(None, 1, None, 2), 2, FINISH, 2, id="replace while waiting: not promoted"
        ),
        pytest.param(stored(ONE), pins(1, 1, 1, None), 1, FINISH, 1, id="attached again: link not promoted"),
        pytest.param(stored(), pins(66, 1), 1, [], 1, id="tampered meanwhile: judged later"),
    ],
)
def test_recovery(
    item: Stored, found: Pinned, generation: int | None, actions: list[type], runs: int | None
) -> None:
    decision = recover(item, found)
    assert (decision.record.generation.number if decision.record else None) == generation
    assert [type(action) for action in decision.actions] == actions
    if generation is not None:
        assert (decision.held.program.info.id if decision.held.program else None) == runs
    assert bool(decision.healed) == bool(actions)


def test_a_detach_is_finished() -> None:
    decision = recover(stored(ending=True), pins(1, 1))
    assert decision.record is None
    assert [type(action) for action in decision.actions] == [EndLink, *ERASE]


def test_a_detach_that_had_emptied_the_slot_is_finished() -> None:
    emptied = pins(1, 1)
    assert isinstance(emptied.link, FakeLink)
    emptied.link.prog_id = NO_PROGRAM
    decision = recover(stored(ending=True), emptied)
    assert [type(action) for action in decision.actions] == [EndLink, *ERASE]


def test_a_detach_of_a_link_that_a_stranger_uses_leaves_it_alone() -> None:
    decision = recover(stored(ending=True), pins(66, 1))
    assert [type(action) for action in decision.actions] == [SetAside, *ERASE]


def test_a_staged_link_that_is_dead_does_not_count() -> None:
    found = pins(None, None, 1, 1, detached=True)
    assert [type(a) for a in recover(stored(None, ONE), found).actions] == ERASE

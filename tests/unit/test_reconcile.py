"""Every combination of record, link and hook, and what it means."""

from typing import Any

import pytest

from bpflinkd.core.actions import (
    CreateLink,
    Evict,
    NoteHook,
    Promote,
    RemovePins,
    RemoveRecord,
    SaveEnding,
    SetAside,
    SwapLink,
)
from bpflinkd.core.ids import NO_PROGRAM, LinkId, Micros, ProgId, UnixMicros
from bpflinkd.core.model import Health, LinkFacts, Occupant, Policy, State, Status
from bpflinkd.core.reconcile import LONGEST_PAUSE, NO_FIGHT, PEACE, Fight, judge
from bpflinkd.core.targets import Hook, KprobeHook, KprobeTarget
from tests.unit.fakes import HOOK, NOW, OTHER_HOOK, TICKS, FakeProgram, info, record

STRANGER = Occupant(program=info(66))
ATTACH = [CreateLink, NoteHook, Promote]
RELEASE = [SaveEnding, RemovePins, RemoveRecord]


def link(hook: Hook | None, prog_id: int = 1) -> LinkFacts:
    return LinkFacts(id=LinkId(7), prog_id=ProgId(prog_id), hook=hook)


def was(state: State) -> Health:
    return Health(state=state, reason="before", since=UnixMicros(5))


ATTACHED = Status(link=link(HOOK), hook=HOOK)
TAMPERED = Status(link=link(HOOK, 66), hook=HOOK, occupant=STRANGER)
RENAMED = Status(link=link(HOOK), hook=None)
GONE = Status(link=link(None), hook=None)
SEVERED = Status(link=link(None), hook=HOOK)
TAKEN = Status(link=link(None), hook=HOOK, occupant=STRANGER)
BACK = Status(link=link(None), hook=OTHER_HOOK)
BACK_TAKEN = Status(link=link(None), hook=OTHER_HOOK, occupant=STRANGER)
FOLLOW = Status(link=link(HOOK), hook=OTHER_HOOK)
NOTHING = Status(link=None, hook=HOOK)


@pytest.mark.parametrize(
    ("before", "status", "state", "change", "actions"),
    [
        pytest.param("active", ATTACHED, "active", None, [], id="all is well"),
        pytest.param("waiting", ATTACHED, "active", "target-back", [], id="renamed back"),
        pytest.param("tampered", ATTACHED, "active", None, [], id="the stranger took its program back"),
        pytest.param("active", TAMPERED, "tampered", "link-updated", [], id="updated by a stranger"),
        pytest.param("active", RENAMED, "waiting", "target-gone", [], id="renamed or moved away"),
        pytest.param("waiting", RENAMED, "waiting", None, [], id="still away: told once"),
        pytest.param("active", GONE, "waiting", "target-gone", [], id="deleted"),
        pytest.param("waiting", GONE, "waiting", None, [], id="still deleted: told once"),
        pytest.param("active", SEVERED, "severed", "link-detached", [], id="detached by a stranger"),
        pytest.param("severed", SEVERED, "severed", None, [], id="still severed: told once"),
        pytest.param("displaced", SEVERED, "severed", None, [], id="the stranger left again"),
        pytest.param("active", TAKEN, "displaced", "program-attached", [], id="replaced by a stranger"),
        pytest.param("severed", TAKEN, "displaced", "program-attached", [], id="taken after all"),
        pytest.param("waiting", BACK, "active", "target-back", ATTACH, id="back: attach again"),
        pytest.param("displaced", BACK, "active", None, ATTACH, id="back, and free at last"),
        pytest.param("failed", BACK, "active", None, ATTACH, id="try again"),
        pytest.param("waiting", BACK_TAKEN, "displaced", "program-attached", [], id="back but taken"),
        pytest.param("active", FOLLOW, "active", None, ATTACH, id="the name stands for another now"),
        pytest.param("waiting", NOTHING, "active", "target-back", ATTACH, id="first time there"),
        pytest.param(None, ATTACHED, "active", None, [], id="start: as we left it"),
        pytest.param(None, SEVERED, "severed", "link-detached", [], id="start: severed meanwhile"),
        pytest.param(None, TAMPERED, "tampered", "link-updated", [], id="start: tampered meanwhile"),
        pytest.param(None, NOTHING, "active", None, ATTACH, id="start: after a reboot"),
        pytest.param(None, Status(link=None, hook=None), "waiting", None, [], id="start: not there yet"),
    ],
)
def test_judgement_under_policy_alert(
    before: str | None, status: Status, state: str, change: str | None, actions: list[type]
) -> None:
    health = was(State(before)) if before else None
    if before in {"tampered", "displaced"} and health:
        health = Health(state=health.state, reason="", since=UnixMicros(5), running=STRANGER)
    verdict = judge(record(), health, status, FakeProgram(), fight=NO_FIGHT, now=NOW, ticks=TICKS)
    assert verdict.health.state == state
    assert (verdict.change.kind if verdict.change else None) == change
    assert [type(action) for action in verdict.actions] == actions
    assert not verdict.let_go


SYSCALL = KprobeTarget(symbol="f")
KERNEL, LOADED, LOADED_AGAIN = KprobeHook(), KprobeHook("dummy", 5), KprobeHook("dummy", 6)


@pytest.mark.parametrize(
    ("before", "status", "state", "change", "actions"),
    [
        pytest.param("active", Status(link=link(KERNEL), hook=KERNEL), "active", None, [], id="all is well"),
        pytest.param(
            "active", Status(link=link(KERNEL, 0), hook=KERNEL), "severed", "slot-emptied", [], id="emptied"
        ),
        pytest.param(
            "severed", Status(link=link(KERNEL, 0), hook=KERNEL), "severed", None, [], id="emptied: told once"
        ),
        pytest.param(
            "active",
            Status(link=link(KERNEL, 66), hook=KERNEL, occupant=STRANGER),
            "tampered",
            "slot-changed",
            [],
            id="a stranger in the slot",
        ),
        pytest.param("active", GONE, "waiting", "target-gone", [], id="the module was unloaded"),
        pytest.param(
            "active",
            Status(link=link(None), hook=LOADED_AGAIN),
            "active",
            None,
            ATTACH,
            id="unloaded and loaded again unseen",
        ),
        pytest.param(
            "waiting",
            Status(link=link(None), hook=LOADED_AGAIN),
            "active",
            "target-back",
            ATTACH,
            id="the module is back",
        ),
    ],
)
def test_judgement_of_kprobes(
    before: str, status: Status, state: str, change: str | None, actions: list[type]
) -> None:
    hook = LOADED if status.link is not None and status.link.hook is None else KERNEL
    ours = record(target=SYSCALL, hook=hook)
    verdict = judge(ours, was(State(before)), status, FakeProgram(), fight=NO_FIGHT, now=NOW, ticks=TICKS)
    assert verdict.health.state == state
    assert (verdict.change.kind if verdict.change else None) == change
    assert [type(action) for action in verdict.actions] == actions


def test_restore_fills_an_emptied_slot() -> None:
    ours = record(target=SYSCALL, hook=KERNEL, policy=Policy.RESTORE)
    emptied = Status(link=link(KERNEL, 0), hook=KERNEL)
    verdict = judge(ours, was(State.ACTIVE), emptied, FakeProgram(), fight=NO_FIGHT, now=NOW, ticks=TICKS)
    (swap,) = verdict.actions
    assert isinstance(swap, SwapLink)
    assert swap.expected == NO_PROGRAM


@pytest.mark.parametrize(
    ("policy", "status", "actions"),
    [
        pytest.param("restore", TAMPERED, [SwapLink], id="swapped back"),
        pytest.param("restore", SEVERED, ATTACH, id="attached again"),
        pytest.param("restore", TAKEN, [Evict, *ATTACH], id="exactly the stranger is evicted"),
        pytest.param("restore", GONE, [], id="a target that is gone is no fight"),
        pytest.param("yield", TAMPERED, [SaveEnding, SetAside, *RELEASE[1:]], id="left to the stranger"),
        pytest.param("yield", SEVERED, RELEASE, id="let go when severed"),
        pytest.param("yield", TAKEN, RELEASE, id="let go when displaced"),
        pytest.param("yield", GONE, [], id="a target that is gone is no stranger"),
        pytest.param("yield", BACK, ATTACH, id="a target that is back is attached"),
    ],
)
def test_policies(policy: str, status: Status, actions: list[type]) -> None:
    ours = record(policy=Policy(policy))
    verdict = judge(ours, was(State.ACTIVE), status, FakeProgram(), fight=NO_FIGHT, now=NOW, ticks=TICKS)
    assert [type(action) for action in verdict.actions] == actions
    assert bool(verdict.let_go) == (policy == "yield" and RemoveRecord in actions)


def test_restore_compares_with_what_was_seen() -> None:
    ours = record(policy=Policy.RESTORE)
    verdict = judge(ours, was(State.ACTIVE), TAMPERED, FakeProgram(), fight=NO_FIGHT, now=NOW, ticks=TICKS)
    (swap,) = verdict.actions
    assert isinstance(swap, SwapLink)
    assert swap.expected == 66


def test_restore_waits_while_the_fight_is_hot() -> None:
    ours = record(policy=Policy.RESTORE)
    hot = Fight(restores=3, not_before=Micros(TICKS + 1))
    verdict = judge(ours, was(State.ACTIVE), SEVERED, FakeProgram(), fight=hot, now=NOW, ticks=TICKS)
    assert not verdict.actions
    assert "contended" in verdict.health.reason


def test_pauses_double_up_to_a_minute_and_are_forgotten_in_peace() -> None:
    fight, pauses = NO_FIGHT, []
    now: Any = TICKS
    for _ in range(30):
        fight = fight.next_round(now)
        pauses.append(fight.not_before - now)
        now = fight.not_before
    assert pauses[:4] == [100_000, 200_000, 400_000, 800_000]
    assert pauses[-1] == LONGEST_PAUSE
    assert fight.next_round(Micros(now + PEACE + 1)).restores == 1


def test_since_is_kept_while_the_state_lasts() -> None:
    verdict = judge(
        record(), was(State.SEVERED), SEVERED, FakeProgram(), fight=NO_FIGHT, now=NOW, ticks=TICKS
    )
    assert verdict.health.since == 5
    started = judge(record(), None, ATTACHED, FakeProgram(), fight=NO_FIGHT, now=NOW, ticks=TICKS)
    assert started.health.since == record().generation.since

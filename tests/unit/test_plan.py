from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bpflinkd.core import attach_types, plan
from bpflinkd.core.actions import (
    CreateLink,
    ForgetPrograms,
    KeepProgram,
    Promote,
    SaveDone,
    SaveIntent,
    StageProgram,
    SwapLink,
)
from bpflinkd.core.attach_types import ProgramType, by_name
from bpflinkd.core.callers import Caller
from bpflinkd.core.errors import (
    BadTarget,
    BpflinkdError,
    HookBusy,
    HookGone,
    StaleGeneration,
    WrongProgramType,
)
from bpflinkd.core.ids import LinkId, ProgId
from bpflinkd.core.model import LinkFacts, Occupant, Outcome, Record, Status
from bpflinkd.core.requests import AttachRequest, ReplaceRequest
from bpflinkd.core.targets import CgroupPlace, CgroupTarget
from tests.unit.fakes import ETH0, HOOK, NOW, OTHER_HOOK, FakeProgram, info, record

ROOT = Caller(uid=0)
EGRESS, CONNECT4, BIND4 = by_name("egress"), by_name("connect4"), by_name("bind4")
PLACE = CgroupPlace(path="/w")
STRANGER = Occupant(program=info(66), link_id=LinkId(5))


def sock_addr(**words: Any) -> FakeProgram:
    return FakeProgram(kind=ProgramType.CGROUP_SOCK_ADDR, **words)


@pytest.mark.parametrize(
    ("target", "program", "settled"),
    [
        pytest.param(ETH0, FakeProgram(), ETH0, id="xdp"),
        pytest.param(
            PLACE,
            sock_addr(declared=CONNECT4, fitting=(CONNECT4,)),
            CgroupTarget(path="/w", attach_type=CONNECT4),
            id="the section tells",
        ),
        pytest.param(
            PLACE,
            sock_addr(fitting=(BIND4,)),
            CgroupTarget(path="/w", attach_type=BIND4),
            id="the kernel tells",
        ),
        pytest.param(
            CgroupTarget(path="/w", attach_type=BIND4),
            sock_addr(fitting=(BIND4,)),
            CgroupTarget(path="/w", attach_type=BIND4),
            id="the caller tells",
        ),
    ],
)
def test_target_is_settled(target: Any, program: FakeProgram, settled: object) -> None:
    assert plan.settle_target(target, program) == settled


@pytest.mark.parametrize(
    ("target", "program", "error"),
    [
        pytest.param(ETH0, sock_addr(), WrongProgramType, id="a cgroup program on an interface"),
        pytest.param(PLACE, FakeProgram(), WrongProgramType, id="an xdp program on a cgroup"),
        pytest.param(PLACE, FakeProgram(kind=2), WrongProgramType, id="a kprobe program on a cgroup"),
        pytest.param(
            CgroupTarget(path="/w", attach_type=BIND4),
            sock_addr(fitting=(CONNECT4,)),
            WrongProgramType,
            id="another expected_attach_type",
        ),
        pytest.param(
            CgroupTarget(path="/w", attach_type=BIND4),
            sock_addr(declared=CONNECT4, fitting=(CONNECT4, BIND4)),
            WrongProgramType,
            id="the section says otherwise",
        ),
        pytest.param(PLACE, sock_addr(fitting=(CONNECT4, BIND4)), BadTarget, id="several fit"),
        pytest.param(PLACE, sock_addr(fitting=()), BadTarget, id="none fits"),
    ],
)
def test_target_and_program_that_do_not_fit(
    target: Any, program: FakeProgram, error: type[BpflinkdError]
) -> None:
    with pytest.raises(error):
        plan.settle_target(target, program)


def refuse_stale() -> None:
    plan.check_expected(record(3), 2)


def swap(status: Status) -> tuple[Record, Sequence[object]]:
    running = FakeProgram(number=1)
    return plan.swap(record(2, 2), status, FakeProgram(number=2), running.info, running, Outcome.REPLACED)


def refuse_gone() -> None:
    plan.check_target_there(ETH0, None, wait=False)


def refuse_busy() -> None:
    raise plan.busy(ETH0, STRANGER)


def refuse_own() -> None:
    raise plan.busy(ETH0, STRANGER, "other")


def refuse_tampered() -> None:
    link = LinkFacts(id=LinkId(1), prog_id=ProgId(66), hook=HOOK)
    swap(Status(link=link, hook=HOOK))


def refuse_displaced() -> None:
    status = Status(link=None, hook=HOOK, occupant=STRANGER)
    swap(status)


@pytest.mark.parametrize(
    ("refuse", "error", "says"),
    [
        pytest.param(refuse_stale, StaleGeneration, "generation 3", id="a lost update"),
        pytest.param(refuse_gone, HookGone, "--wait", id="target gone"),
        pytest.param(refuse_busy, HookBusy, "bpf_link 5", id="hook busy"),
        pytest.param(refuse_own, HookBusy, "our own link 'other'", id="hook of another link of ours"),
        pytest.param(refuse_tampered, HookBusy, "swapped it", id="tampered"),
        pytest.param(refuse_displaced, HookBusy, "bpf_link 5", id="displaced"),
    ],
)
def test_refusals(refuse: Callable[[], None], error: type[BpflinkdError], says: str) -> None:
    with pytest.raises(error, match=says):
        refuse()


def kinds(actions: Any) -> list[type]:
    return [type(action) for action in actions]


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        pytest.param(HOOK, [SaveIntent, StageProgram, CreateLink, SaveDone, Promote], id="there"),
        pytest.param(None, [SaveIntent, StageProgram, SaveDone, Promote], id="awaited"),
    ],
)
def test_attach(hook: Any, expected: list[type]) -> None:
    request = AttachRequest(
        caller=ROOT,
        name="edge",
        target=ETH0,
        program=FakeProgram().source,  # type: ignore[arg-type]
        wait=True,
    )
    made, actions = plan.attach(request, ETH0, FakeProgram(), hook, NOW)
    assert kinds(actions) == expected
    assert (made.generation.number, made.hook) == (1, hook)


@pytest.mark.parametrize(
    ("status", "expected", "hook"),
    [
        pytest.param(
            Status(link=LinkFacts(id=LinkId(1), prog_id=ProgId(1), hook=HOOK), hook=HOOK),
            [SaveIntent, KeepProgram, StageProgram, SwapLink, SaveDone, Promote, ForgetPrograms],
            HOOK,
            id="a live link is swapped",
        ),
        pytest.param(
            Status(link=LinkFacts(id=LinkId(1), prog_id=ProgId(1), hook=HOOK), hook=None),
            [SaveIntent, KeepProgram, StageProgram, SwapLink, SaveDone, Promote, ForgetPrograms],
            HOOK,
            id="one on a renamed interface too",
        ),
        pytest.param(
            Status(link=LinkFacts(id=LinkId(1), prog_id=ProgId(1), hook=None), hook=OTHER_HOOK),
            [SaveIntent, KeepProgram, StageProgram, CreateLink, SaveDone, Promote, ForgetPrograms],
            OTHER_HOOK,
            id="a severed one is attached anew",
        ),
        pytest.param(
            Status(link=None, hook=None),
            [SaveIntent, KeepProgram, StageProgram, SaveDone, Promote, ForgetPrograms],
            HOOK,
            id="a waiting one only changes its record",
        ),
    ],
)
def test_swap(status: Status, expected: list[type], hook: object) -> None:
    after, actions = swap(status)
    assert kinds(actions) == expected
    assert after.hook == hook
    intents = [action.record for action in actions if isinstance(action, SaveIntent)]
    assert intents == [after]


def test_replacement_counts_on() -> None:
    request = ReplaceRequest(caller=ROOT, name="edge", program=FakeProgram().source)  # type: ignore[arg-type]
    after = plan.replacement(record(7), request, FakeProgram(number=9), NOW)
    assert (after.generation.number, after.generation.program.id, after.generation.since) == (8, 9, NOW)


def test_replacement_of_another_attach_type_is_refused() -> None:
    request = ReplaceRequest(caller=ROOT, name="edge", program=FakeProgram().source)  # type: ignore[arg-type]
    on_cgroup = record(target=CgroupTarget(path="/w", attach_type=CONNECT4))
    with pytest.raises(WrongProgramType, match=r"bind4.*connect4"):
        plan.replacement(on_cgroup, request, sock_addr(fitting=(BIND4,)), NOW)
    assert attach_types.of_program_type(ProgramType.XDP) == (attach_types.XDP,)

"""All or nothing: whatever step fails, the steps before it are undone, in reverse."""

import pytest

from bpflinkd.core import plan
from bpflinkd.core.callers import Caller
from bpflinkd.core.errors import BpflinkdError
from bpflinkd.core.executor import Executor, Held
from bpflinkd.core.model import Outcome, Status
from bpflinkd.core.requests import AttachRequest
from tests.unit.fakes import ETH0, HOOK, NOW, Diary, FakeLink, FakeProgram, record

ATTACH = ["intend", "stage_program", "create_link", "stage_link", "commit"]
UNDO = ["detach", "unstage_link", "discard_staged", "forget_intent"]


def executor(diary: Diary) -> Executor:
    return Executor(diary, diary, diary, lambda _hook: None)


def attach_with(diary: Diary) -> Held:
    program = FakeProgram()
    request = AttachRequest(
        caller=Caller(uid=0),
        name="edge",
        target=ETH0,
        program=program.source,  # type: ignore[arg-type]
    )
    _, actions = plan.attach(request, ETH0, program, HOOK, NOW)
    return executor(diary).run(actions, ETH0, Held(link=None, program=program))


def replace_with(diary: Diary) -> Held:
    old, new, link = FakeProgram(number=1), FakeProgram(number=2), FakeLink()
    status = Status(link=link.facts(), hook=HOOK)
    _, actions = plan.swap(record(2, 2), status, new, old.info, old, Outcome.REPLACED)
    return executor(diary).run(actions, ETH0, Held(link=link, program=old))


@pytest.mark.parametrize(
    ("fail_at", "calls"),
    [
        pytest.param("intend", ["intend"], id="intent"),
        pytest.param(
            "stage_program",
            ["intend", "stage_program", "discard_staged", "forget_intent"],
            id="staging",
        ),
        pytest.param(
            "create_link",
            ["intend", "stage_program", "create_link", "discard_staged", "forget_intent"],
            id="the attach itself",
        ),
        pytest.param(
            "stage_link",
            [*ATTACH[:4], *UNDO],
            id="pinning the link",
        ),
        pytest.param(
            "commit",
            [*ATTACH, *UNDO],
            id="recording it",
        ),
    ],
)
def test_attach_that_fails_is_undone(fail_at: str, calls: list[str]) -> None:
    diary = Diary(fail_at)
    with pytest.raises(BpflinkdError, match="was told to fail"):
        attach_with(diary)
    assert diary.calls == calls


@pytest.mark.parametrize(
    ("fail_at", "calls"),
    [
        pytest.param(
            "swap",
            ["intend", "keep", "stage_program", "swap", "discard_staged", "drop_kept", "forget_intent"],
            id="the swap itself",
        ),
        pytest.param(
            "commit",
            [
                *("intend", "keep", "stage_program", "swap", "commit"),
                *("swap", "discard_staged", "drop_kept", "forget_intent"),
            ],
            id="recording it: swapped back",
        ),
    ],
)
def test_replace_that_fails_is_undone(fail_at: str, calls: list[str]) -> None:
    diary = Diary(fail_at)
    with pytest.raises(BpflinkdError, match="was told to fail"):
        replace_with(diary)
    assert diary.calls == calls


def test_after_the_point_of_no_return_a_failure_is_left_to_the_next_start() -> None:
    diary = Diary("promote")
    held = replace_with(diary)
    assert diary.calls == ["intend", "keep", "stage_program", "swap", "commit", "promote"]
    assert held.program is not None
    assert held.program.info.id == 2


@pytest.mark.parametrize("fail_at", ["", "detach", "remove"])
def test_detach_goes_on_once_it_is_decided(fail_at: str) -> None:
    diary = Diary(fail_at)
    held = Held(link=FakeLink(), program=FakeProgram())
    executor(diary).run(plan.detach("edge"), ETH0, held)
    assert diary.calls == ["mark_ending", "detach", "remove", "remove"]


def test_detach_that_cannot_be_recorded_touches_nothing() -> None:
    diary = Diary("mark_ending")
    with pytest.raises(BpflinkdError):
        executor(diary).run(plan.detach("edge"), ETH0, Held(link=FakeLink(), program=None))
    assert diary.calls == ["mark_ending"]

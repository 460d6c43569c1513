"""What the journal gets of each kind of news, and what its catalog says of it."""

import logging
import re
import shutil
import subprocess
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from systemd.journal import JournalHandler

from bpflinkd import journal
from bpflinkd.core.callers import Actor, User
from bpflinkd.core.culprits import Culprit
from bpflinkd.core.events import (
    ChangeKind,
    ForeignChange,
    Healed,
    LinkAdded,
    LinkAmended,
    LinkRemoved,
    OfOneLink,
    OwnerOverridden,
    ProgramReplaced,
    StateChanged,
    SwappedTogether,
)
from bpflinkd.core.ids import LinkId, Micros
from bpflinkd.core.model import (
    Generation,
    Health,
    Lifetime,
    LinkView,
    Occupant,
    Policy,
    ProgramInfo,
    Record,
    State,
)
from bpflinkd.core.sources import Builtin
from bpflinkd.core.swaps import Swapped
from tests.unit.fakes import ETH0, NOW, info

CATALOG = Path(__file__).parents[2] / "units/bpflinkd.catalog"

STRANGER = Occupant(program=info(66))


def generation(number: int, program: int) -> Generation:
    return Generation(
        number=number, program=info(program), source=Builtin(name="pass"), since=NOW, by=Actor(uid=0)
    )


def view(state: State = State.ACTIVE, running: Occupant | None = None) -> LinkView:
    record = Record(
        name="edge-filter",
        target=ETH0,
        owner=User(uid=1000),
        policy=Policy.ALERT,
        lifetime=Lifetime.PINNED,
        created=NOW,
        generation=generation(4, 12),
    )
    health = Health(state=state, reason="", since=NOW, running=running)
    return LinkView(record=record, health=health, link_id=LinkId(7))


OURS, THEIRS = info(12), STRANGER.program


def foreign(
    kind: ChangeKind, state: State, before: ProgramInfo | None = OURS, after: ProgramInfo | None = None
) -> ForeignChange:
    by = STRANGER if after is THEIRS else None
    return ForeignChange(
        view=view(state, by),
        kind=kind,
        sentence="somebody did",
        by=by,
        source="sweep",
        seen=NOW,
        before=before,
        after=after,
    )


def sent(news: OfOneLink | SwappedTogether) -> dict[str, Any]:
    """What systemd's handler makes of it, less what journald drops: fields not in capitals."""
    fields: dict[str, Any] = {}

    def take(message: str, /, **more: Any) -> None:
        fields.update(MESSAGE=message, **more)

    handler = JournalHandler(sender_function=take, SYSLOG_IDENTIFIER="bpflinkd")
    log = logging.getLogger("bpflinkd")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        journal.write(news)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    return {key: value for key, value in fields.items() if re.fullmatch("[A-Z][A-Z0-9_]*", key)}


ACTIVE = {
    "LINK": "edge-filter",
    "TARGET": str(ETH0),
    "GENERATION": "4",
    "STATE": "active",
}
ON_FOREIGN_CHANGE = {
    ChangeKind.LINK_UPDATED: (State.TAMPERED, OURS, THEIRS),
    ChangeKind.LINK_DETACHED: (State.SEVERED, OURS, None),
    ChangeKind.PROGRAM_ATTACHED: (State.DISPLACED, None, THEIRS),
    ChangeKind.SLOT_CHANGED: (State.TAMPERED, OURS, THEIRS),
    ChangeKind.SLOT_EMPTIED: (State.SEVERED, OURS, None),
    ChangeKind.TARGET_GONE: (State.WAITING, OURS, None),
    ChangeKind.TARGET_BACK: (State.ACTIVE, None, OURS),
    ChangeKind.NEIGHBOUR_ADDED: (State.ACTIVE, None, THEIRS),
    ChangeKind.NEIGHBOUR_REMOVED: (State.ACTIVE, THEIRS, None),
    ChangeKind.PIN_REMOVED: (State.ACTIVE, None, None),
    ChangeKind.PIN_REPLACED: (State.ACTIVE, None, None),
    ChangeKind.KPROBES_DISABLED: (State.SEVERED, OURS, None),
}


def programs(before: ProgramInfo | None, after: ProgramInfo | None) -> dict[str, str]:
    ran = {"OLD_PROG": before, "NEW_PROG": after}
    return {field: str(program.id) for field, program in ran.items() if program}


NEWS: dict[str, tuple[OfOneLink, dict[str, str]]] = {
    "a link was made": (
        LinkAdded(view=view()),
        {"MESSAGE_ID": journal.MessageId.LINK_ADDED, **ACTIVE, "NEW_PROG": "12"},
    ),
    "a link was made that waits: nothing runs": (
        LinkAdded(view=view(State.WAITING)),
        {"MESSAGE_ID": journal.MessageId.LINK_ADDED, **ACTIVE, "STATE": "waiting"},
    ),
    "a link ended": (
        LinkRemoved(view=view(), reason="detached by uid 0"),
        {"MESSAGE_ID": journal.MessageId.LINK_REMOVED, **ACTIVE, "OLD_PROG": "12"},
    ),
    "a link got another owner": (
        LinkAmended(view=view()),
        {"MESSAGE_ID": journal.MessageId.LINK_AMENDED, **ACTIVE, "NEW_PROG": "12"},
    ),
    "an administrator overrode the owner": (
        OwnerOverridden(view=view(), by=Actor(uid=0, pid=7), verb="detached"),
        {"MESSAGE_ID": journal.MessageId.OWNER_OVERRIDDEN, **ACTIVE, "BY": "uid 0, pid 7"},
    ),
    "a program was replaced": (
        ProgramReplaced(view=view(), old=generation(3, 9)),
        {"MESSAGE_ID": journal.MessageId.PROGRAM_REPLACED, **ACTIVE, "OLD_PROG": "9", "NEW_PROG": "12"},
    ),
    "a link was displaced": (
        StateChanged(view=view(State.DISPLACED, STRANGER), old=State.ACTIVE),
        {
            "MESSAGE_ID": journal.MessageId.STATE_CHANGED,
            **ACTIVE,
            "STATE": "displaced",
            "NEW_PROG": "66",
        },
    ),
    "a crash was healed": (
        Healed(name="edge-filter", sentence="the swap was finished"),
        {"MESSAGE_ID": journal.MessageId.HEALED, "LINK": "edge-filter"},
    ),
    **{
        str(kind): (
            foreign(kind, state, before, after),
            {
                "MESSAGE_ID": journal.FOREIGN[kind],
                **ACTIVE,
                "KIND": kind,
                "STATE": state,
                "SOURCE": "sweep",
                **programs(before, after),
            },
        )
        for kind, (state, before, after) in ON_FOREIGN_CHANGE.items()
    },
}
# What every line of the log has.
COMMON = {
    "MESSAGE",
    "PRIORITY",
    "LOGGER",
    "THREAD_NAME",
    "PROCESS_NAME",
    "SYSLOG_IDENTIFIER",
    "CODE_ARGS",
} | {
    "CODE_FILE",
    "CODE_LINE",
    "CODE_FUNC",
}


@pytest.mark.parametrize(("news", "fields"), NEWS.values(), ids=NEWS)
def test_fields_of_the_line(news: OfOneLink, fields: dict[str, str]) -> None:
    found = sent(news)
    ours = {key: value for key, value in found.items() if key not in COMMON}
    assert ours == fields
    assert {type(value) for value in ours.values()} == {str}
    assert found["MESSAGE"].startswith("link edge-filter: ")


def test_every_kind_of_news_is_in_the_table() -> None:
    assert {type(news) for news, _ in NEWS.values()} == set(typing.get_args(OfOneLink))
    assert set(ON_FOREIGN_CHANGE) == set(ChangeKind)


def test_links_that_were_swapped_together_are_one_line() -> None:
    actor = Actor(uid=0, pid=7, exe="/usr/bin/x")
    generations = tuple((f"n{number}", 2) for number in range(22))
    found = sent(SwappedTogether(swapped=Swapped(generations, 41_600), by=actor, each=()))
    assert {key: found[key] for key in ("MESSAGE_ID", "LINKS", "SKEW_NSEC")} == {
        "MESSAGE_ID": str(journal.MessageId.SWAPPED_TOGETHER),
        "LINKS": "22",
        "SKEW_NSEC": "41600",
    }
    assert found["MESSAGE"].startswith(
        f"22 links swapped together by {actor}, the last 42 us after the first: n0, "
    )
    assert found["MESSAGE"].endswith(", n19 and 2 more")


def test_who_did_it_is_told_by_field_and_in_words() -> None:
    who = Culprit(pid=47, thread=48, uid=0, comm="bpftool", executable="/usr/sbin/bpftool\x1b[2J", cgroup="")
    news = replace(foreign(ChangeKind.LINK_DETACHED, State.SEVERED), who=who, delay=Micros(1234))
    found = sent(news)
    told = {key: value for key, value in found.items() if key.startswith("CULPRIT_")}
    escaped = "/usr/sbin/bpftool\\x1b[2J"
    assert told == {
        "CULPRIT_PID": "47",
        "CULPRIT_UID": "0",
        "CULPRIT_COMM": "bpftool",
        "CULPRIT_EXE": escaped,
    }
    assert found["DELAY_USEC"] == "1234"
    assert found["MESSAGE"] == (
        "link edge-filter: link-detached: somebody did, "
        f"by bpftool (pid 47, uid 0, {escaped}) (noticed by sweep after 1.2 ms)"
    )


def test_unit_and_container_of_who_did_it_are_fields() -> None:
    inside = "/system.slice/a.service/" + "ab" * 32
    for cgroup, field, value in (
        ("/system.slice/a.service", "CULPRIT_UNIT", "a.service"),
        (inside, "CULPRIT_CONTAINER", "ab" * 32),
    ):
        who = Culprit(pid=47, thread=48, uid=0, comm="x", cgroup=cgroup)
        assert sent(replace(foreign(ChangeKind.PIN_REMOVED, State.ACTIVE), who=who))[field] == value


def test_foreign_changes_are_warnings() -> None:
    assert sent(foreign(ChangeKind.LINK_DETACHED, State.SEVERED))["PRIORITY"] == "4"
    assert sent(LinkAdded(view=view()))["PRIORITY"] == "6"


# The catalog


def entries() -> dict[str, str]:
    """Text by id, read as systemd reads it."""
    found = re.split(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def test_catalog_and_code_have_the_same_ids() -> None:
    assert set(entries()) == {str(each) for each in journal.MessageId}


def test_ids_are_random_uuids() -> None:
    for message_id in journal.MessageId:
        assert re.fullmatch("[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", message_id)


def test_systemd_reads_the_catalog(tmp_path: Path) -> None:
    place = tmp_path / "usr/lib/systemd/catalog"
    place.mkdir(parents=True)
    shutil.copy(CATALOG, place)

    def journalctl(*words: str) -> str:
        done = subprocess.run(
            ["journalctl", f"--root={tmp_path}", *words], capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return done.stdout

    journalctl("--update-catalog")
    listed = dict(line.split(" ", 1) for line in journalctl("--list-catalog").splitlines())
    assert set(listed) == set(entries())
    assert all(subject.startswith("bpflinkd: ") for subject in listed.values())


@pytest.mark.parametrize("message_id", list(journal.MessageId), ids=lambda each: each.name)
def test_catalog_names_only_fields_that_the_line_has(message_id: journal.MessageId) -> None:
    together = SwappedTogether(swapped=Swapped((("a", 2),), 5), by=Actor(uid=0), each=())
    lines = [sent(news) for news in (*(news for news, _ in NEWS.values()), together)]
    fields = [set(line) for line in lines if line["MESSAGE_ID"] == message_id]
    assert set(re.findall("@([A-Z_]+)@", entries()[message_id])) <= set.intersection(*fields)


def test_catalog_explains_every_state() -> None:
    text = entries()[journal.MessageId.STATE_CHANGED]
    assert {str(state) for state in State} <= set(re.findall(r"^(\w+) {2,}", text, re.MULTILINE))

"""Files of swaps, calls that name many links, and what a start makes of those that were cut short."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gi.repository import GLib
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.config import swaps
from bpflinkd.core import recovery
from bpflinkd.core.actions import ForgetIntent, SaveDone, SwapLink
from bpflinkd.core.callers import ROOT_CALLER
from bpflinkd.core.errors import BadOption, BpflinkdError, LimitExceeded, VerifierRejected
from bpflinkd.core.limits import Rates
from bpflinkd.core.model import Outcome
from bpflinkd.core.ports import Pinned, Stored
from bpflinkd.core.requests import ReplaceRequest
from bpflinkd.core.sources import Builtin, ObjectFile
from bpflinkd.core.swaps import MOST, Swap, Swapped, check_names
from bpflinkd.dbus import many
from bpflinkd.store.sqlite import SqliteStore
from tests.unit.fakes import LINK_ID, FakeLink, FakeProgram, info, record

PASS = 'program = { builtin = "pass" }'


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "x.toml"
    file.write_text(text)
    return file


def test_a_file_is_read_with_lines(tmp_path: Path) -> None:
    text = f"""
[[swap]]
links = ["a", "b"]
program = {{ object = "x.o", name = "f", constants = {{ n = 3, on = true, s = "t" }} }}
expect = 2
maps = {{ m = "fresh" }}
fresh-maps = true
[[swap]]
link = "c"
{PASS}
"""
    (first, second), faults = swaps.read(written(tmp_path, text))
    assert not faults
    assert (first.line, second.line) == (2, 8)
    wanted = first.wanted
    assert (wanted.links, wanted.kind, wanted.value, wanted.name) == (("a", "b"), "object", "x.o", "f")
    assert dict(wanted.constants) == {"n": "3", "on": "true", "s": "t"}
    assert (wanted.expect, wanted.maps, wanted.fresh_maps) == (2, (("m", "fresh"),), True)
    assert (second.wanted.kind, second.wanted.value, second.wanted.expect) == ("builtin", "pass", None)


FAULTS = [
    pytest.param("", "there is no [[swap]] in it", id="nothing is in it"),
    pytest.param(f"[[swap]]\n{PASS}", "1:1: a swap has a link", id="no link is named"),
    pytest.param(
        f'[[swap]]\nlink = "a"\nlinks = ["b"]\n{PASS}', "1:1: a swap has a link", id="link and links"
    ),
    pytest.param(f"[[swap]]\nlinks = []\n{PASS}", "2:1: links is empty", id="links is empty"),
    pytest.param(
        f'[[swap]]\nlinks = ["a", 3]\n{PASS}', "2:15: the name of a link must be", id="a number as name"
    ),
    pytest.param(f'[[swap]]\nlink = "a b"\n{PASS}', "2:1: ", id="a name that no link can have"),
    pytest.param(
        f'[[swap]]\nlinks = ["a", "a"]\n{PASS}',
        "1:1: link 'a' is named twice, before at line 1",
        id="twice in one",
    ),
    pytest.param(
        f'[[swap]]\nlink = "a"\n{PASS}\n[[swap]]\nlink = "a"\n{PASS}',
        "4:1: link 'a' is named twice, before at line 1",
        id="twice in two",
    ),
    pytest.param('[[swap]]\nlink = "a"', "1:1: the swap has no program", id="no program"),
    pytest.param(
        '[[swap]]\nlink = "a"\nprogram = {}', "3:1: a program has exactly one of", id="an empty program"
    ),
    pytest.param('[[swap]]\nlink = "a"\nprogram = { id = 0 }', "3:13: id must be a number from 1", id="id 0"),
    pytest.param(
        '[[swap]]\nlink = "a"\nprogram = { generation = -1 }',
        "generation must be a number",
        id="generation -1",
    ),
    pytest.param(
        '[[swap]]\nlink = "a"\nprogram = { pin = "x" }', "must be an absolute path", id="a relative pin"
    ),
    pytest.param(
        '[[swap]]\nlink = "a"\nprogram = { builtin = "pass", name = "x" }',
        "leave the name out",
        id="a needless name",
    ),
    pytest.param(
        '[[swap]]\nlink = "a"\nprogram = { source = "x.c", constants = { a = 1 } }',
        "constants are an object's",
        id="constants of a source",
    ),
    pytest.param(f'[[swap]]\nlink = "a"\nexpect = 0\n{PASS}', "3:1: expect is a generation", id="expect 0"),
    pytest.param(
        f'[[swap]]\nlink = "a"\nmaps = {{ m = "x" }}\n{PASS}', '"keep" or "fresh"', id="no such choice"
    ),
    pytest.param(f'[[swap]]\nlink = "a"\nmap = 1\n{PASS}', "3:1: a swap has no key 'map'", id="no such key"),
    pytest.param("[[swap]\n", "this is not TOML", id="no TOML"),
]


@pytest.mark.parametrize(("text", "told"), FAULTS)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    file = written(tmp_path, text)
    _, (fault, *_) = swaps.read(file)
    assert str(file) in fault
    assert told in fault


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    found, faults = swaps.read(tmp_path / "none.toml")
    assert not found
    assert "cannot be read: No such file" in faults[0]


# On the bus


def swap(name: str, where: str = "") -> Swap:
    return Swap(ReplaceRequest(caller=ROOT_CALLER, name=name, program=Builtin(name="pass")), where)


def test_names_are_checked_before_anything_else() -> None:
    for wrong in ((), (swap("a"),) * (MOST + 1)):
        with pytest.raises(BadOption, match="cannot be swapped together"):
            check_names(wrong)
    with pytest.raises(BadOption, match=r"^y: link 'a' is named twice, before at x; leave one out; no link"):
        check_names((swap("a", "x"), swap("b"), swap("a", "y")))
    check_names((swap("a"), swap("b")))


def test_a_refusal_names_the_link_once_and_its_log_comes_last() -> None:
    told = swap("a", "x:3").blame(VerifierRejected("bad; its log follows", log="line"))
    assert str(told) == "x:3: link 'a': bad; no link was changed; its log follows"
    assert told.log == "line"
    assert str(swap("a").blame(BadOption("link 'a' is odd"))) == "link 'a' is odd; no link was changed"


def arguments(swaps: list[tuple[str, dict[str, GLib.Variant]]], **options: GLib.Variant) -> GLib.Variant:
    return GLib.Variant("(a(sa{sv})a{sv})", (swaps, options))


def test_a_call_is_taken_apart() -> None:
    words = {
        "object": GLib.Variant("h", 2),
        "part": GLib.Variant("(tt)", (4, 5)),
        "expect": GLib.Variant("t", 3),
        "maps": GLib.Variant("a{ss}", {"m": "keep"}),
        "where": GLib.Variant("s", "x:1"),
    }
    back = {"generation": GLib.Variant("t", 0)}
    asked = many.asked(
        arguments([("a", words), ("b", back)], dry_run=GLib.Variant("b", True)), lambda at: at + 10
    )
    request = asked.by(ROOT_CALLER)
    first, second = request.swaps
    assert isinstance(first.request, ReplaceRequest)
    assert first.request.program == ObjectFile(fd=12, part=(4, 5))
    assert (first.request.expect, first.where) == (3, "x:1")
    assert not isinstance(second.request, ReplaceRequest)
    assert second.request.generation is None
    assert request.dry_run


ODD: list[Any] = [
    pytest.param({"pin": GLib.Variant("u", 3)}, {}, id="a pin that is a number"),
    pytest.param({"builtin": GLib.Variant("s", "pass"), "nonsense": GLib.Variant("b", True)}, {}, id="a key"),
    pytest.param(
        {"builtin": GLib.Variant("s", "pass"), "where": GLib.Variant("s", "\n")}, {}, id="a line break"
    ),
    pytest.param({"builtin": GLib.Variant("s", "pass"), "maps": GLib.Variant("b", True)}, {}, id="maps: b"),
    pytest.param(
        {"object": GLib.Variant("h", 0), "part": GLib.Variant("(ss)", ("", ""))}, {}, id="part: (ss)"
    ),
    pytest.param({"builtin": GLib.Variant("d", float("nan"))}, {}, id="no number"),
    pytest.param({"builtin": GLib.Variant("s", "pass")}, {"dry": GLib.Variant("b", True)}, id="an option"),
]


@pytest.mark.parametrize(("words", "options"), ODD)
def test_what_cannot_be_understood_is_refused(
    words: dict[str, GLib.Variant], options: dict[str, GLib.Variant]
) -> None:
    with pytest.raises(BpflinkdError):
        many.asked(arguments([("a", words)], **options), lambda at: at)


@given(st.lists(st.tuples(st.from_regex(r"[\w.:@+-]{1,20}", fullmatch=True), st.integers(1, 2**64 - 1))))
def test_an_answer_is_what_was_done(rows: list[tuple[str, int]]) -> None:
    rows = [(name, number) for name, number in rows if name.isascii()]
    assert many.generations(Swapped(tuple(rows), 0)).unpack() == rows


def test_a_user_pays_for_each_link() -> None:
    rates = Rates()
    rates.take(1000, "ReplaceMany", 0.0, 40)
    with pytest.raises(LimitExceeded, match="can be called again in"):
        rates.take(1000, "ReplaceMany", 0.0, 1)
    with pytest.raises(LimitExceeded, match="41 links at once; uid 1001 may for at most 40"):
        rates.take(1001, "ReplaceMany", 0.0, 41)


# After a crash


def test_one_of_several_that_runs_the_new_program_goes_back() -> None:
    before = record()
    generation = replace(before.generation, number=before.generation.number + 1, program=info(2))
    intent = replace(before, generation=generation)
    old, new = FakeProgram(before.generation.program.id), FakeProgram(2)
    link = FakeLink(prog_id=2)
    pinned = Pinned(link=link, program=old, staged_link=None, staged_program=new)
    item = Stored(record=before, intent=intent, ending=False, together=True)
    found = recovery.recover(item, pinned)
    assert found.record == before
    assert [type(action) for action in found.actions] == [SwapLink, ForgetIntent]
    assert found.actions[0] == SwapLink(name=before.name, expected=info(2).id, program=old)
    alone = recovery.recover(replace(item, together=False), pinned)
    assert isinstance(alone.actions[0], SaveDone)
    link.prog_id = before.generation.program.id
    assert [type(action) for action in recovery.recover(item, pinned).actions] == [ForgetIntent]


def test_the_store_keeps_intents_together_until_all_are_committed(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    firsts = [replace(record(), name=name) for name in ("a", "b")]
    firsts = [replace(each, generation=replace(each.generation, number=1)) for each in firsts]
    for each in firsts:
        store.intend(each, None)
        store.commit(each, LINK_ID)
    after = [replace(each, generation=replace(each.generation, number=2)) for each in firsts]
    store.intend_together(after, {})
    assert [(item.intent, item.together) for item in store.load()] == [(each, True) for each in after]
    store.forget_intents(["a", "b"])
    assert [(item.intent, item.together) for item in store.load()] == [(None, False)] * 2
    store.intend_together(after, {})
    store.commit_together([(each, LINK_ID, Outcome.REPLACED) for each in after])
    assert [(item.record, item.intent, item.together) for item in store.load()] == [
        (each, None, False) for each in after
    ]
    assert store.history("a")[0].outcome is Outcome.REPLACED
    store.close()

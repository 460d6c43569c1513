"""What files declare against what there is: the steps, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from bpflinkd.core import attach_types
from bpflinkd.core.callers import User
from bpflinkd.core.declared import (
    Attach,
    Declaration,
    DeclaredProgram,
    Detach,
    Move,
    Refused,
    Replace,
    Settle,
    Step,
    difference,
    fingerprint,
)
from bpflinkd.core.model import Origin, Policy, Record
from bpflinkd.core.sources import (
    Builtin,
    KeptObject,
    ObjectImage,
    PinnedProgram,
    Source,
    SourceText,
    StoredObject,
)
from bpflinkd.core.targets import CgroupPlace, CgroupTarget, WantedTarget, XdpMode, XdpTarget
from tests.unit.fakes import ETH0, record

PASS = Builtin(name="pass")
FILE = "/etc/bpflinkd/links.d/a.toml"
OBJECT = ObjectImage(data=b"elf", sha256="ab" * 32, program=None)
FROM_FILE = Origin(file=FILE, program=fingerprint(PASS))


def declared(**changes: Any) -> Declaration[WantedTarget]:
    return replace(Declaration(name="edge", target=ETH0, program=PASS, file=FILE, line=3), **changes)


def has(source: Source = PASS, origin: Origin = FROM_FILE, **changes: Any) -> Record:
    found = replace(record(), origin=origin, **changes)
    return replace(found, generation=replace(found.generation, source=source))


def steps(wanted: Declaration[WantedTarget] | None, there: Record | None, **more: Any) -> list[Step]:
    found, refused = difference([wanted] if wanted else [], {there.name: there} if there else {}, **more)
    assert not refused
    return found


BY_CALLER = Origin()
CALLERS_OBJECT = StoredObject(sha256="ab" * 32, program="count")


@pytest.mark.parametrize(
    ("wanted", "there", "kind"),
    [
        pytest.param(declared(), None, Attach, id="not there"),
        pytest.param(declared(), has(), None, id="as declared"),
        pytest.param(declared(policy=Policy.RESTORE), has(), Settle, id="another policy"),
        pytest.param(declared(owner=User(uid=7)), has(), Settle, id="another owner"),
        pytest.param(declared(file="/etc/bpflinkd/links.d/b.toml"), has(), Settle, id="another file"),
        pytest.param(declared(program=OBJECT), has(), Replace, id="another program"),
        pytest.param(declared(program=OBJECT, policy=Policy.RESTORE), has(), Replace, id="both"),
        pytest.param(declared(target=XdpTarget(interface="eth1")), has(), Move, id="another target"),
        pytest.param(
            declared(target=XdpTarget(interface="eth0", mode=XdpMode.GENERIC)), has(), Move, id="another mode"
        ),
        pytest.param(declared(), has(CALLERS_OBJECT), None, id="replaced by a caller: stays"),
        pytest.param(declared(program=OBJECT), has(CALLERS_OBJECT), Replace, id="replaced, then redeclared"),
        pytest.param(declared(), has(PASS, BY_CALLER), Settle, id="a caller's, with that program"),
        pytest.param(declared(), has(CALLERS_OBJECT, BY_CALLER), Replace, id="a caller's, with another"),
        pytest.param(
            declared(program=KeptObject(sha256="ab" * 32, program="count")),
            has(CALLERS_OBJECT, BY_CALLER),
            Settle,
            id="a caller's, exported",
        ),
        pytest.param(
            declared(program=OBJECT), has(CALLERS_OBJECT, BY_CALLER), Settle, id="a caller's, the same object"
        ),
        pytest.param(
            declared(program=ObjectImage(data=b"", sha256="ab" * 32, program="other")),
            has(CALLERS_OBJECT, BY_CALLER),
            Replace,
            id="a caller's, another program of the object",
        ),
        pytest.param(None, has(), Detach, id="declared no more"),
        pytest.param(None, has(PASS, BY_CALLER), None, id="never declared"),
    ],
)
def test_one_link(wanted: Declaration[WantedTarget] | None, there: Record | None, kind: type | None) -> None:
    assert [type(step) for step in steps(wanted, there)] == ([kind] if kind else [])


def test_a_cgroup_without_an_attach_type_is_the_same_place() -> None:
    path = "/web.slice"
    there = has(target=CgroupTarget(path=path, attach_type=attach_types.by_name("egress")))
    assert steps(declared(target=CgroupPlace(path=path)), there) == []
    assert [type(step) for step in steps(declared(target=CgroupPlace(path="/db.slice")), there)] == [Move]


def test_a_callers_link_elsewhere_is_not_taken_over() -> None:
    theirs = has(PASS, BY_CALLER)
    found, refused = difference([declared(target=XdpTarget(interface="eth1"))], {"edge": theirs})
    assert found == []
    (refusal,) = refused
    assert refusal == Refused(file=FILE, name="edge", sentence=refusal.sentence)
    assert refusal.sentence.startswith(
        f"{FILE}:3: a link 'edge' was made by a caller on xdp:eth0, not on xdp:eth1"
    )


@pytest.mark.parametrize("refused", [FILE, "/etc/bpflinkd/links.d"])
def test_links_of_a_file_that_cannot_be_read_stay(refused: str) -> None:
    assert steps(None, has(), refused=[refused]) == []


def test_a_file_beside_the_bad_one_is_not_protected() -> None:
    assert [type(s) for s in steps(None, has(), refused=["/etc/bpflinkd/links.d/a"])] == [Detach]


def test_a_link_whose_program_is_lost_gets_the_declared_one() -> None:
    given = has(StoredObject(sha256="cd" * 32, program="x"))
    assert [type(s) for s in steps(declared(), given, without_program=frozenset({"edge"}))] == [Replace]


def test_what_goes_makes_room_before_something_comes() -> None:
    old = has(name="old")
    found, _ = difference([declared(name="new")], {"old": old})
    assert [type(step) for step in found] == [Detach, Attach]


def test_of_two_by_one_name_the_first_counts() -> None:
    found, refused = difference([declared(), declared(target=XdpTarget(interface="eth9"))], {})
    assert found == [Attach(declared())]
    assert not refused


def test_a_fingerprint_tells_programs_apart_and_nothing_else() -> None:
    different: list[DeclaredProgram] = [
        OBJECT,
        replace(OBJECT, program="count"),
        replace(OBJECT, sha256="cd" * 32),
        SourceText(data=b"c", sha256="ab" * 32, program=None),
        PinnedProgram(path="/sys/fs/bpf/x"),
        PASS,
    ]
    assert len({fingerprint(program) for program in different}) == len(different)
    assert fingerprint(replace(OBJECT, data=b"")) == fingerprint(KeptObject(sha256="ab" * 32))

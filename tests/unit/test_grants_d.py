"""Files of grants: what they mean, what is refused and where, and that no refused file gives anything."""

import grp
import os
import pwd
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.config import files as files_module
from bpflinkd.config import grant_table, grants, pieces, tables
from bpflinkd.config.grant_table import GRANTS, granted
from bpflinkd.config.grants import GrantsDirectory, GrantsRead
from bpflinkd.core import attach_types
from bpflinkd.core import grants as core_grants
from bpflinkd.core.attach_types import ProgramType
from bpflinkd.core.callers import Group, Unit, User
from bpflinkd.core.errors import BadTarget
from bpflinkd.core.grants import Grant, GrantedTarget
from bpflinkd.core.model import Policy

EGRESS = attach_types.by_name("egress")
XDP = 'targets = ["xdp:eth1"]'


def grant(more: str = XDP, holder: str = "user = 812") -> str:
    return f"[[grant]]\n{holder}\n{more}\n"


@pytest.fixture(name="directory")
def _directory(tmp_path: Path) -> Path:
    made = tmp_path / "grants.d"
    made.mkdir()
    return made


def reader(*where: Path) -> GrantsDirectory:
    # The tests may run as any user, whose files these are.
    return GrantsDirectory(where, trusted=frozenset({0, os.geteuid()}))


def one(directory: Path, text: str) -> GrantsRead:
    (directory / "a.toml").write_text(text)
    return reader(directory).read()


def sentence(found: GrantsRead) -> str:
    """The one sentence, without the path of the file."""
    assert not found.grants
    (refused,) = found.refused
    assert refused.sentence.startswith(refused.file + ":")
    return refused.sentence.removeprefix(refused.file + ":")


# What files mean.


def test_a_grant_with_everything(directory: Path) -> None:
    found = one(
        directory,
        '# ours\n[[grant]]\nunit = "tw-agent@1.service"\n'
        'targets = ["xdp:eth1", "cgroup:/web.slice/* egress",\n  "kprobe:tcp_*"]\n'
        'sources = ["fd", "builtin"]\nprogram-types = ["xdp", "kprobe"]\n'
        'policies = ["restore", "yield"]\nkernel-memory = true\nmax-links = 2\nmax-maps = 0\n'
        'max-memory = "3G"\n',
    )
    assert not found.refused
    assert found.grants == (
        Grant(
            holder=Unit(name="tw-agent@1.service"),
            targets=(
                GrantedTarget(kind="xdp", place="eth1"),
                GrantedTarget(kind="cgroup", place="/web.slice/*", attach_type=EGRESS),
                GrantedTarget(kind="kprobe", place="tcp_*"),
            ),
            sources=frozenset({"fd", "builtin"}),
            program_types=frozenset({ProgramType.XDP, ProgramType.KPROBE}),
            policies=frozenset({Policy.RESTORE, Policy.YIELD}),
            kernel_memory=True,
            max_links=2,
            max_maps=0,
            max_memory=3 << 30,
            file=str(directory / "a.toml"),
            line=2,
        ),
    )


def test_what_a_grant_does_not_say_is_the_cores_default(directory: Path) -> None:
    (found,) = one(directory, grant()).grants
    assert found == Grant(
        holder=User(uid=812),
        targets=(GrantedTarget(kind="xdp", place="eth1"),),
        file=str(directory / "a.toml"),
        line=1,
    )


def test_holders_are_found_by_name_and_by_number(directory: Path) -> None:
    user, group = (
        next(entry for entry in entries if entry[2]) for entries in (pwd.getpwall(), grp.getgrall())
    )
    holders = [f'user = "{user[0]}"', "user = 7", f'group = "{group[0]}"', "group = 8", 'unit = "a.scope"']
    found = one(directory, "".join(grant(holder=holder) for holder in holders))
    assert [each.holder for each in found.grants] == [
        User(uid=pwd.getpwnam(user[0]).pw_uid),
        User(uid=7),
        Group(gid=grp.getgrnam(group[0]).gr_gid),
        Group(gid=8),
        Unit(name="a.scope"),
    ]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        pytest.param("xdp:veth*", GrantedTarget(kind="xdp", place="veth*"), id="interfaces"),
        pytest.param("cgroup:/a/b", GrantedTarget(kind="cgroup", place="/a/b"), id="a cgroup"),
        pytest.param("cgroup:/a//*/", GrantedTarget(kind="cgroup", place="/a/*"), id="slashes too many"),
        pytest.param(
            "cgroup:/a cgroup_inet_egress",
            GrantedTarget(kind="cgroup", place="/a", attach_type=EGRESS),
            id="an attach type by its long name",
        ),
        pytest.param("kprobe:f", GrantedTarget(kind="kprobe", place="f"), id="a function"),
        pytest.param("kretprobe:[a-c]?", GrantedTarget(kind="kretprobe", place="[a-c]?"), id="functions"),
        pytest.param(
            "kretprobe-multi:tcp_*", GrantedTarget(kind="kretprobe-multi", place="tcp_*"), id="a pattern"
        ),
    ],
)
def test_targets(text: str, target: GrantedTarget) -> None:
    assert granted(text) == target
    assert granted(str(target)) == target


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "is not a target", id="nothing"),
        pytest.param("xdp:", "is not a target", id="a kind alone"),
        pytest.param("xdp:a/b*", "cannot match an interface", id="an interface with a slash"),
        pytest.param("cgroup:web.slice", "must begin with a slash", id="a relative cgroup"),
        pytest.param("cgroup:/a/../b", "holds '.', '..'", id="a cgroup beside it"),
        pytest.param("cgroup:/a/*/..", "holds '.', '..'", id="a pattern and a cgroup beside it"),
        pytest.param("cgroup:/a/**", "** is not known here", id="a pattern of any depth"),
        pytest.param("cgroup:/a egres", "'egres' is not an attach type", id="no attach type"),
        pytest.param("kprobe:f+0x10", "write it as kprobe:f", id="an offset"),
        pytest.param(
            "kprobe:f*+0x10", "is not a pattern of kernel functions; write it as kprobe:", id="both"
        ),
        pytest.param("kprobe:", "is not a target", id="no function"),
        pytest.param("KPROBE:f*", "is not a target", id="upper case"),
    ],
)
def test_what_is_no_target(text: str, says: str) -> None:
    with pytest.raises(BadTarget, match=re.escape(says)):
        granted(text)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ('"0"', 0),
        ("4096", 4096),
        ('"4096"', 4096),
        ('"64K"', 65536),
        ('"64M"', 64 << 20),
        ('"2G"', 2 << 30),
    ],
)
def test_amounts_of_memory(directory: Path, text: str, amount: int) -> None:
    (found,) = one(directory, grant(f"{XDP}\nmax-memory = {text}")).grants
    assert found.confinement.memory == amount


# What is refused, and where.


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("[[grant]]\nuser = ", "2:8: this is not TOML: ", id="syntax"),
        pytest.param('[[link]]\nname = "x"\n', "1:1: a file of grants.d has no key 'link'", id="a link"),
        pytest.param(
            "[grant]\n", "1:1: grants are an array of tables; begin each with [[grant]]", id="a bracket"
        ),
        pytest.param("grant = [3]\n", "1:10: a grant must be a table, not a number", id="no table"),
        pytest.param(
            grant(f"{XDP}\n uesr = 3"), "4:2: a grant has no key 'uesr'; did you mean user?", id="a typo"
        ),
        pytest.param(
            grant(f"{XDP}\nkernel_memory = true"), "did you mean kernel-memory?", id="an underscore in a key"
        ),
        # Holders.
        pytest.param(f"[[grant]]\n{XDP}\n", "1:1: the grant is for nobody", id="nobody"),
        pytest.param(
            grant(f'{XDP}\nunit = "a.service"'),
            "4:1: a grant is for one user, group or unit, not for user and unit",
            id="two holders",
        ),
        pytest.param(grant(holder="user = 0"), "2:1: root needs no grant", id="root by uid"),
        pytest.param(grant(holder='user = "root"'), "2:1: root needs no grant", id="root by name"),
        pytest.param(
            grant(holder='user = "no-such"'), "2:1: there is no user 'no-such' on this host", id="no user"
        ),
        pytest.param(grant(holder='group = "no-such"'), "2:1: there is no group 'no-such'", id="no group"),
        pytest.param(grant(holder='user = "812"'), "write the uid without quotes", id="a uid in quotes"),
        pytest.param(grant(holder='group = "990"'), "write the gid without quotes", id="a gid in quotes"),
        pytest.param(grant(holder='user = "a\\u0000"'), "2:1: there is no user 'a\\x00'", id="a NUL"),
        pytest.param(grant(holder='user = ""'), "2:1: the user is empty", id="an empty user"),
        pytest.param(grant(holder="user = -1"), "2:1: -1 is not a uid", id="a negative uid"),
        pytest.param(grant(holder="group = 4294967295"), "2:1: 4294967295 is not a gid", id="no gid"),
        pytest.param(grant(holder="user = true"), "2:1: user must be a user's name or a uid", id="a boolean"),
        pytest.param(grant(holder="user = 812.0"), "not a float", id="a float"),
        pytest.param(
            grant(holder=f"user = 0x{'f' * 5000}"), "2:1: user has more than the 64 bits", id="a huge uid"
        ),
        pytest.param(grant(holder='unit = "agent"'), "2:1: 'agent' is not the name of a unit", id="no unit"),
        pytest.param(
            grant(holder='unit = "a/b.service"'), "2:1: 'a/b.service' is not", id="a unit with a slash"
        ),
        pytest.param(
            grant(holder='unit = "tw-*.service"'), "2:1: 'tw-*.service' is not", id="a glob of units"
        ),
        pytest.param(grant(holder='unit = "a@.service"'), "2:1: 'a@.service' is a template", id="a template"),
        pytest.param(grant(holder='unit = "web.slice"'), "2:1: 'web.slice' is not", id="a slice"),
        pytest.param(grant(holder='unit = "a.service\\n"'), "2:1: 'a.service\\n' is not", id="a line feed"),
        pytest.param(grant(holder="unit = 3"), "2:1: unit must be a string", id="a number for a unit"),
        # Targets.
        pytest.param(grant(""), "1:1: the grant has no targets", id="no targets"),
        pytest.param(grant("targets = []"), "3:1: targets is empty", id="empty targets"),
        pytest.param(
            grant('targets = "xdp:e"'), "3:1: targets must be an array of strings, not a string", id="one"
        ),
        pytest.param(
            grant('targets = ["xdp:e",\n  7]'),
            "4:3: targets must be strings, not a number",
            id="a number in it",
        ),
        pytest.param(grant('targets = ["xpd:e"]'), "3:12: 'xpd:e' is not a target", id="a bad target"),
        pytest.param(
            grant('targets = ["xdp:e", "xdp:e"]'),
            "3:21: 'xdp:e' is there twice",
            id="a target that is there twice",
        ),
        pytest.param(
            grant('targets = ["cgroup:/a", "cgroup:/a/"]'),
            "3:25: 'cgroup:/a/' is cgroup:/a, which is there already",
            id="the same target in other words",
        ),
        pytest.param(
            grant('targets = ["xdp:e", "kretprobe-multi:tcp_*"]'),
            "3:21: programs on kretprobe-multi targets can read all of the kernel's memory",
            id="a kprobe without the word for it",
        ),
        pytest.param(
            grant('targets = ["kprobe:f"]\nkernel-memory = false'),
            "add kernel-memory = true",
            id="a kprobe and a no",
        ),
        # The rest.
        pytest.param(grant(f'{XDP}\nsources = ["pin"]'), "4:12: the source pin cannot be granted", id="pins"),
        pytest.param(
            grant(f'{XDP}\nsources = ["fd", "id"]'),
            "4:18: the source id cannot be granted: what is named by a number is opened with root's rights",
            id="ids",
        ),
        pytest.param(
            grant(f'{XDP}\nsources = ["objct"]'),
            "4:12: 'objct' is not a source; did you mean object?",
            id="a source",
        ),
        pytest.param(grant(f"{XDP}\nsources = []"), "4:1: sources is empty", id="no sources"),
        pytest.param(grant(f"{XDP}\npolicies = []"), "4:1: policies is empty", id="no policies"),
        pytest.param(grant(f'{XDP}\npolicies = ["ALERT"]'), "4:13: 'ALERT' is not a policy", id="a policy"),
        pytest.param(grant(f"{XDP}\nprogram-types = []"), "4:1: program-types is empty", id="no types"),
        pytest.param(
            grant(f'{XDP}\nprogram-types = ["xpd"]'),
            "4:18: 'xpd' is not a program type; did you mean xdp?",
            id="type",
        ),
        pytest.param(
            grant(f'{XDP}\nprogram-types = ["xdp", "cgroup_skb"]'),
            "4:25: no target of the grant takes programs of type cgroup_skb",
            id="a type that no target takes",
        ),
        pytest.param(
            grant(f'{XDP}\nkernel-memory = "yes"'), "4:1: kernel-memory must be true or false", id="a word"
        ),
        pytest.param(grant(f"{XDP}\nmax-links = 0"), "4:1: max-links must be from 1 to", id="no links"),
        pytest.param(grant(f"{XDP}\nmax-links = true"), "4:1: max-links must be a number", id="true links"),
        pytest.param(grant(f"{XDP}\nmax-maps = -1"), "4:1: max-maps must be from 0 to", id="negative maps"),
        pytest.param(
            grant(f"{XDP}\nmax-memory = -1"), "4:1: max-memory must be from 0 to", id="negative memory"
        ),
        pytest.param(
            grant(f'{XDP}\nmax-memory = "-1M"'), "4:1: '-1M' is not an amount", id="negative in quotes"
        ),
        pytest.param(
            grant(f'{XDP}\nmax-memory = "64MB"'), "4:1: '64MB' is not an amount", id="a unit of memory"
        ),
        pytest.param(grant(f'{XDP}\nmax-memory = "٣M"'), "is not an amount of memory", id="foreign digits"),
        pytest.param(
            grant(f'{XDP}\nmax-memory = "9999999999999999999G"'),
            "4:1: max-memory must be from 0",
            id="too much",
        ),
    ],
)
def test_a_fault_is_told_with_its_place(directory: Path, text: str, says: str) -> None:
    said = sentence(one(directory, text))
    assert says in said
    assert not says[0].isdigit() or said.startswith(says)


def test_every_fault_of_a_grant_is_told(directory: Path) -> None:
    text = '[[grant]]\ntargets = ["xdp:e", "kprobe:f"]\nsources = ["pin", "no"]\nmax-maps = -1\n'
    found = one(directory, text)
    assert not found.grants
    where = [refused.sentence.removeprefix(refused.file + ":").split(": ")[0] for refused in found.refused]
    assert where == ["1:1", "2:21", "3:12", "3:19", "4:1"]


# A refused file gives nothing.


def test_one_fault_takes_all_grants_of_its_file_and_of_no_other(directory: Path) -> None:
    (directory / "b.toml").write_text(grant(holder="user = 7"))
    found = one(directory, grant() + grant("targets = []"))
    assert [each.holder for each in found.grants] == [User(uid=7)]
    assert {refused.file for refused in found.refused} == {str(directory / "a.toml")}


def test_a_refused_file_does_not_let_the_vendors_through(tmp_path: Path) -> None:
    for name in ("vendor", "own"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.toml").write_text(grant())
    where = reader(tmp_path / "vendor", tmp_path / "own")
    assert [each.file for each in where.read().grants] == [str(tmp_path / "own/a.toml")]
    (tmp_path / "own/a.toml").write_text(grant("targets = []"))
    found = where.read()
    assert not found.grants
    assert [refused.file for refused in found.refused] == [
        str(tmp_path / f"{d}/a.toml") for d in ("own", "vendor")
    ]


@pytest.mark.parametrize(
    ("what", "mode"), [("a.toml", 0o664), ("a.toml", 0o646), (".", 0o775), (".", 0o1777)]
)
def test_what_others_can_write_gives_nothing(directory: Path, what: str, mode: int) -> None:
    assert one(directory, grant()).grants
    (directory / what).chmod(mode)
    found = reader(directory).read()
    assert not found.grants
    assert "can be written by" in found.refused[0].sentence


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["grants.d", "grants.d/a.toml"])
def test_what_others_own_gives_nothing(directory: Path, what: str) -> None:
    (directory / "a.toml").write_text(grant())
    assert GrantsDirectory([directory]).read().grants
    os.chown(directory.parent / what, 7, -1)
    assert f"{directory.parent / what} is owned by" in sentence(GrantsDirectory([directory]).read())


def test_a_file_that_goes_takes_its_grants_along(directory: Path) -> None:
    where = reader(directory)
    (directory / "a.toml").write_text(grant())
    assert len(where.read().grants) == 1
    assert where.accepted == (str(directory / "a.toml"),)
    (directory / "a.toml").unlink()
    assert where.read() == GrantsRead()
    assert not list(where.accepted)


def test_a_user_that_is_made_later_is_found_by_the_next_reading(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "_TICK", -(10**18))
    (directory / "a.toml").write_text(grant(holder='user = "tw"'))
    where = reader(directory)
    assert "there is no user 'tw'" in where.read().refused[0].sentence
    tw = pwd.struct_passwd(("tw", "x", 812, 812, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", {"tw": tw}.__getitem__)
    assert [each.holder for each in where.read().grants] == [User(uid=812)]


def test_what_is_unchanged_is_not_parsed_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    real = tomllib.loads

    def loads(text: str) -> dict[str, Any]:
        parsed.append(text)
        return real(text)

    monkeypatch.setattr(tomllib, "loads", loads)
    monkeypatch.setattr(files_module, "_TICK", -(10**18))
    (directory / "a.toml").write_text(grant() + grant(holder="user = 7"))
    where = reader(directory)
    first = where.read()
    parsed.clear()
    assert where.read() == first
    assert not parsed
    (directory / "a.toml").write_text(grant() + grant(holder="user = 8"))
    assert [each.holder for each in where.read().grants] == [User(uid=812), User(uid=8)]
    assert parsed == ["", grant(holder="user = 8")]


def test_the_vendors_directory_is_for_the_system_alone() -> None:
    assert grants.directories(Path("/etc/bpflinkd")) == (
        Path("/usr/lib/bpflinkd/grants.d"),
        Path("/etc/bpflinkd/grants.d"),
    )
    assert grants.directories(Path("/x")) == (Path("/x/grants.d"),)


# Any file.

_PARTS = st.sampled_from(
    [
        grant(), grant(holder='unit = "a.service"'), "[[grant]]\n", "# x\n", '"""', "'''", "x = 1\n",
        "[x]\n", "user = 7\n", 'unit = """\n', "grant = [1]\n", "[grant]\n", "[[link]]\n", " [[grant]]\r\n",
        "[grant.user]\n", "targets = [[]]\n", "max-memory = []\n", 'sources = [{ pin = "fd" }]\n',
        "program-types = [1979-05-27]\n",
    ]
)  # fmt: skip


@given(st.lists(_PARTS, max_size=10).map("".join))
def test_any_text_apart_means_what_it_means_whole(text: str) -> None:
    try:
        whole: dict[str, Any] | None = tomllib.loads(text)
    except ValueError:
        whole = None
    if whole is None:
        with pytest.raises(pieces.BadText):
            pieces.read(text.encode(), GRANTS)
        return
    wanted, faults = tables.read(whole, GRANTS)
    found = pieces.read(text.encode(), GRANTS)
    assert [entry.wanted for placed in found for entry in placed.piece.entries] == list(wanted.values())
    assert [fault.sentence for placed in found for fault in placed.piece.faults] == [
        fault.sentence for fault in faults
    ]


# Agreement with others.


def test_the_sources_that_can_be_granted_are_the_cores(directory: Path) -> None:
    words = ", ".join(f'"{word}"' for word in core_grants.SOURCES)
    (found,) = one(directory, grant(f"{XDP}\nsources = [{words}]")).grants
    assert found.sources == frozenset(core_grants.SOURCES)


PAGE = (Path(__file__).parents[2] / "docs/grants.md").read_text()


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_of_the_documentation_are_grants(text: str) -> None:
    wanted, faults = tables.read(tomllib.loads(text), GRANTS)
    assert (len(wanted), faults) == (1, ())


def test_the_documentation_has_every_key_and_every_program_type() -> None:
    table = PAGE.partition("## Keys of a `[[grant]]`")[2].partition("\n\n| target")[0]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|(.*)\|$", table, re.MULTILINE))
    assert set(rows) == set(grant_table.KEYS)
    assert set(re.findall(r"`(\w+)`", rows["program-types"])) == {known.name.lower() for known in ProgramType}
    assert f"| {core_grants.MAX_LINKS} " in rows["max-links"]
    assert f"| {core_grants.MAX_MAPS} " in rows["max-maps"]
    assert f'| `"{core_grants.MAX_MEMORY >> 20}M"` ' in rows["max-memory"]

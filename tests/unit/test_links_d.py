"""Files of declared links: what they mean, what is refused and where, and what is read again."""

import hashlib
import os
import pwd
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpflinkd.config import directories, links, trust
from bpflinkd.config import files as files_module
from bpflinkd.config.links import LinksDirectory
from bpflinkd.core import attach_types, declared, patterns
from bpflinkd.core.callers import Unit, User
from bpflinkd.core.declared import Declarations
from bpflinkd.core.model import Lifetime, Policy
from bpflinkd.core.patterns import CgroupPattern, InterfacePattern
from bpflinkd.core.sources import Builtin, KeptObject, KeptSource, ObjectImage, PinnedProgram, SourceText
from bpflinkd.core.targets import CgroupPlace, CgroupTarget, KprobeTarget, XdpMode, XdpTarget

ELF = b"\x7fELF of some kind"
PASS = 'program = { builtin = "pass" }'


def link(name: str, target: str = "xdp:eth0", more: str = PASS) -> str:
    return f'[[link]]\nname = "{name}"\ntarget = "{target}"\n{more}\n'


@pytest.fixture(name="directory")
def _directory(tmp_path: Path) -> Path:
    made = tmp_path / "links.d"
    made.mkdir()
    return made


def reader(*where: Path) -> LinksDirectory:
    # The tests may run as any user, whose files these are.
    return LinksDirectory(where, trusted=frozenset({0, os.geteuid()}))


def read(*where: Path) -> Declarations:
    return reader(*where).read()


def one(directory: Path, text: str) -> Declarations:
    (directory / "a.toml").write_text(text)
    return read(directory)


def sentence(found: Declarations) -> str:
    """The one sentence, without the path of the file."""
    assert not found.links
    (refused,) = found.refused
    assert refused.sentence.startswith(refused.file + ":")
    return refused.sentence.removeprefix(refused.file + ":")


# What files mean.


def test_a_link_with_everything(directory: Path) -> None:
    (directory / "filter.bpf.o").write_bytes(ELF)
    found = one(
        directory,
        '# ours\n\n[[link]]\nname = "edge-filter"\ntarget = "xdp:eth0"\nmode = "native"\n'
        'program = { object = "filter.bpf.o", name = "edge" }\n'
        'policy = "restore"\nlifetime = "ephemeral"\nowner = "root"\n',
    )
    (declaration,) = found.links
    assert declaration == declared.Declaration(
        name="edge-filter",
        target=XdpTarget(interface="eth0", mode=XdpMode.NATIVE),
        program=ObjectImage(data=ELF, sha256=sha256(ELF), program="edge"),
        asked="object filter.bpf.o edge",
        policy=Policy.RESTORE,
        lifetime=Lifetime.EPHEMERAL,
        owner=User(uid=0),
        file=str(directory / "a.toml"),
        line=3,
    )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("text", "target"),
    [
        pytest.param('target = "cgroup:/a"', CgroupPlace(path="/a"), id="a cgroup"),
        pytest.param(
            'target = "cgroup:/a"\nattach-type = "egress"',
            CgroupTarget(path="/a", attach_type=attach_types.by_name("egress")),
            id="a cgroup and an attach type",
        ),
        pytest.param(
            'target = "kprobe:f+0x10"\ncookie = 7',
            KprobeTarget(symbol="f", offset=16, cookie=7),
            id="a kprobe with a cookie",
        ),
        pytest.param(
            'target = "xdp:veth*"\nmode = "generic"',
            InterfacePattern(name="veth*", mode=XdpMode.GENERIC),
            id="a template by its target",
        ),
        pytest.param(
            'match = { altname = "pod*", driver = "veth", mac = "02:AB:*" }\nmode = "native"',
            InterfacePattern(altname="pod*", driver="veth", mac="02:ab:*", mode=XdpMode.NATIVE),
            id="a template by what matches",
        ),
        pytest.param(
            'target = "cgroup:/system.slice/*.service egress"',
            CgroupPattern(path="/system.slice/*.service", attach_type=attach_types.by_name("egress")),
            id="a template of cgroups",
        ),
    ],
)
def test_targets(directory: Path, text: str, target: object) -> None:
    (declaration,) = one(directory, f'[[link]]\nname = "x"\n{text}\n{PASS}')
    assert declaration.target == target


@pytest.mark.parametrize(
    ("text", "program"),
    [
        pytest.param('object = "x.o"', ObjectImage(data=ELF, sha256=sha256(ELF)), id="an object"),
        pytest.param(
            'source = "x.c", name = "f"',
            SourceText(data=b"int f;", sha256=sha256(b"int f;"), program="f"),
            id="a source",
        ),
        pytest.param('pin = "/sys/fs/bpf/x"', PinnedProgram(path="/sys/fs/bpf/x"), id="a pin"),
        pytest.param('builtin = "pass"', Builtin(name="pass"), id="a built-in"),
        pytest.param(f'kept = "{"a" * 64}"', KeptObject(sha256="a" * 64), id="an object that is kept"),
        pytest.param(
            f'kept-source = "{"b" * 64}", name = "f"',
            KeptSource(sha256="b" * 64, program="f"),
            id="a source that is kept",
        ),
    ],
)
def test_programs(directory: Path, text: str, program: object) -> None:
    (directory / "x.o").write_bytes(ELF)
    (directory / "x.c").write_bytes(b"int f;")
    (declaration,) = one(directory, link("x", more=f"program = {{ {text} }}")).links
    assert declaration.program == program


def test_an_object_is_read_once_for_all_links(directory: Path) -> None:
    (directory / "x.o").write_bytes(ELF)
    text = "".join(link(f"l{at}", more='program.object = "x.o"') for at in range(3))
    images = [declaration.program for declaration in one(directory, text).links]
    assert all(isinstance(image, ObjectImage) for image in images)
    assert len({id(image.data) for image in images if isinstance(image, ObjectImage)}) == 1


def test_an_owner_is_a_name_or_a_uid(directory: Path) -> None:
    user = pwd.getpwall()[-1]
    found = one(
        directory, link("a", more=f'{PASS}\nowner = "{user.pw_name}"') + link("b", more=f"{PASS}\nowner = 7")
    )
    uid = pwd.getpwnam(user.pw_name).pw_uid
    assert [declaration.owner for declaration in found.links] == [User(uid=uid), User(uid=7)]


def test_an_owner_is_a_unit(directory: Path) -> None:
    (declaration,) = one(directory, link("a", more=f'{PASS}\nowner = {{ unit = "x@1.service" }}')).links
    assert declaration.owner == Unit(name="x@1.service")


# What is refused, and where.


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param('[[link]]\nname = "x\n', "2:10: this is not TOML: illegal character", id="syntax"),
        pytest.param("[[link]]\nname =", "2:7: this is not TOML: ", id="an end too early"),
        pytest.param("x = " + "[" * 5000, "1:1: the file nests arrays", id="endless nesting"),
        pytest.param(
            "[link]\n", "1:1: links are an array of tables; begin each with [[link]]", id="a bracket"
        ),
        pytest.param("link = [3]\n", "1:9: a link must be a table, not a number", id="a number for a link"),
        pytest.param(
            link("a") + "[[lnik]]\n",
            "5:1: a file of links.d has no key 'lnik'; did you mean link?",
            id="a typo in a header",
        ),
        pytest.param(
            link("a", more=f'{PASS}\n  polcy = "alert"'),
            "5:3: a link has no key 'polcy'; did you mean policy?",
            id="a typo in a key",
        ),
        pytest.param(
            link("a", more=f"{PASS}\npolicy = 3"), "5:1: policy must be a string, not a number", id="a type"
        ),
        pytest.param(
            link("a", more=f"{PASS}\nowner = true"), "5:1: owner must be a user's name or", id="a boolean"
        ),
        pytest.param(link("a", more=f"{PASS}\ncookie = 1979-05-27"), "not a date or time", id="a date"),
        pytest.param(link("a b"), "2:1: the link name 'a b' holds characters", id="a bad name"),
        pytest.param(f'[[link]]\ntarget = "xdp:e"\n{PASS}', "1:1: the link has no name", id="no name"),
        pytest.param(f'[[link]]\nname = "x"\n{PASS}', "1:1: the link has no target", id="no target"),
        pytest.param(
            '[[link]]\nname = "x"\ntarget = "xdp:e"', "1:1: the link has no program", id="no program"
        ),
        pytest.param(
            link("a", more=f'{PASS}\nmatch = {{ name = "e" }}'),
            "5:1: a link has a target or a match, not both",
            id="a target and a match",
        ),
        pytest.param(link("a", "xpd:e"), "3:1: 'xpd:e' is not a target", id="a bad target"),
        pytest.param(
            link("a", more=f'mode = "fast"\n{PASS}'), "4:1: 'fast' is not an XDP mode", id="a bad mode"
        ),
        pytest.param(
            link("a", "cgroup:/a", f'{PASS}\nmode = "native"'),
            "5:1: a mode is for xdp targets",
            id="a mode there",
        ),
        pytest.param(
            link("a", "cgroup:/a", f'{PASS}\nattach-type = "egres"'),
            "5:1: 'egres' is not an attach type",
            id="a bad attach type",
        ),
        pytest.param(
            link("a", more=f"{PASS}\ncookie = 7"), "5:1: a cookie is for kprobe", id="a cookie there"
        ),
        pytest.param(link("a", "kprobe:f", f"{PASS}\ncookie = -1"), "5:1: the cookie -1", id="a bad cookie"),
        pytest.param(
            link("a", more=f'{PASS}\npolicy = "restor"'),
            "5:1: 'restor' is not a policy; did you mean restore?",
            id="a bad policy",
        ),
        pytest.param(
            link("a", more=f'{PASS}\nlifetime = "own"'), "5:1: 'own' is not a lifetime", id="a lifetime"
        ),
        pytest.param(
            link("a", more=f'{PASS}\nlifetime = "owner"'),
            "5:1: the lifetime owner is for links that a D-Bus connection holds, and a file has none; ",
            id="a lifetime that takes a connection",
        ),
        pytest.param(
            link("a", "kprobe:f", f"{PASS}\ncookie = 0x{'f' * 5000}"),
            "5:1: cookie has more than the 64 bits",
            id="a number that Python does not print",
        ),
        pytest.param(
            link("a", more=f'{PASS}\nowner = ""'), "5:1: the owner is empty; give a name", id="an empty owner"
        ),
        pytest.param(
            link("a", more=f"{PASS}\nowner = {{}}"), "5:1: the owner is empty; write {", id="an empty table"
        ),
        pytest.param(
            link("a", more=f'{PASS}\nowner = {{ unti = "x.service" }}'),
            "5:11: an owner has no key 'unti'; did you mean unit?",
            id="a typo in an owner",
        ),
        pytest.param(
            link("a", more=f'{PASS}\nowner = {{ unit = "/x.service" }}'),
            "5:11: '/x.service' is not the name of a unit",
            id="a unit with a slash",
        ),
        pytest.param(
            link("a", more=f'{PASS}\nowner = {{ unit = "x@.service" }}'),
            "5:11: 'x@.service' is a template",
            id="a template of units",
        ),
        pytest.param(
            link("a", more=f"{PASS}\nowner = {{ unit = 3 }}"), "5:11: unit must be a string", id="no unit"
        ),
        pytest.param(
            link("a", more=f'{PASS}\nowner = "no-such-user"'),
            "5:1: there is no user 'no-such-user'",
            id="no user",
        ),
        pytest.param(
            link("a", more=f'{PASS}\nowner = "99"'), "write the uid without quotes", id="a uid in quotes"
        ),
        pytest.param(
            link("a", more=f"{PASS}\nowner = 4294967295"), "5:1: 4294967295 is not a uid", id="no uid"
        ),
        pytest.param(
            f'[[link]]\nname = "{"x" * 65}"\ntarget = "xdp:v*"\n{PASS}',
            "2:1: the name of a template has 64",
            id="a long name of a template",
        ),
        pytest.param(
            f'[[link]]\nname = "x"\nmatch = {{}}\n{PASS}', "3:1: match is empty", id="an empty match"
        ),
        pytest.param(
            f'[[link]]\nname = "x"\nmatch = {{ name = "" }}\n{PASS}',
            "3:11: name is empty",
            id="an empty pattern",
        ),
        pytest.param(
            f'[[link]]\nname = "x"\nmatch = {{ name = "e", drvr = "e" }}\n{PASS}',
            "3:23: match has no key 'drvr'; did you mean driver?",
            id="a typo in match",
        ),
        pytest.param(
            f'[[link]]\nname = "x"\nmatch = {{ mac = "2" }}\n{PASS}', "3:11: '2' is not a MAC", id="a bad mac"
        ),
        pytest.param(
            f'[[link]]\nname = "x"\nmatch = {{ name = "e" }}\ncookie = 1\n{PASS}',
            "4:1: cookie does not go with match",
            id="a cookie and a match",
        ),
        pytest.param(
            link("a", more='program = { name = "x" }'),
            "4:1: a program has exactly one of object",
            id="no kind",
        ),
        pytest.param(
            link("a", more='program = { builtin = "pass", pin = "/x" }'),
            "this has builtin and pin",
            id="two kinds",
        ),
        pytest.param(
            link("a", more='program = { builtin = "pss" }'),
            "4:13: there is no built-in program 'pss'",
            id="no such built-in",
        ),
        pytest.param(
            link("a", more='program = { builtin = "pass", name = "x" }'),
            "4:31: a builtin is one program",
            id="a name for a built-in",
        ),
        pytest.param(
            link("a", more='program = { pin = "x" }'), "4:13: the pin 'x' must be", id="a relative pin"
        ),
        pytest.param(
            link("a", more='program = { kept = "x" }'), "4:13: kept must be a sha256", id="no sha256"
        ),
        pytest.param(
            link("a", more='[link.program]\nobject = "no.o"'),
            "5:1: the object",
            id="an object that is not there, in a table of its own",
        ),
        pytest.param(
            link("a", more='program = { object = "" }'), "4:13: object is empty", id="an empty path"
        ),
        pytest.param(
            link("a", more='program = { object = "a\\u0000" }'), "4:13: the path of the object", id="NUL"
        ),
        pytest.param(
            link("a", more='program = { object = "." }'), "is a directory", id="a directory as object"
        ),
        pytest.param(link("a", more='program = { object = "a.toml" }'), "is not an ELF file", id="no ELF"),
        pytest.param(link("a", more='program = { source = "e.o" }'), "holds a NUL byte", id="ELF as source"),
        pytest.param(link("a", more='program = { source = "/dev/null" }'), "/dev/null", id="a device"),
    ],
)
def test_a_fault_is_told_with_its_place(directory: Path, text: str, says: str) -> None:
    (directory / "e.o").write_bytes(ELF + b"\0")
    said = sentence(one(directory, text))
    assert says in said
    assert not says[0].isdigit() or said.startswith(says)


def test_several_faults_are_told_in_their_order(directory: Path) -> None:
    found = one(directory, link("a b", "xpd:e", "x = 1") + link("c", more="program = { pin = 3 }\ny = 1"))
    where = [refused.sentence.removeprefix(refused.file).split(":")[1] for refused in found.refused]
    assert where == ["1", "2", "3", "4", "8", "9"]


def test_many_faults_are_counted(directory: Path) -> None:
    found = one(directory, "".join(link(f"l{at}", more="") for at in range(1000)))
    assert len(found.refused) == 11
    assert found.refused[-1].sentence.endswith("a.toml: and 990 faults more")


def test_a_bad_file_does_not_keep_others_from_being_read(directory: Path) -> None:
    (directory / "b.toml").write_text(link("b"))
    found = one(directory, link("a") + "x")
    assert [declaration.name for declaration in found.links] == ["b"]
    assert {refused.file for refused in found.refused} == {str(directory / "a.toml")}


def test_bytes_that_are_not_utf8_have_a_place(directory: Path) -> None:
    (directory / "a.toml").write_bytes("# caf\u00e9\n# \u00e9 \xe9".encode("utf-8")[:-2] + b"\xe9")
    assert sentence(read(directory)) == "2:5: the file is not UTF-8"


def test_a_name_twice_in_a_file_names_both_places(directory: Path) -> None:
    said = sentence(one(directory, link("x") + link("y") + link("x")))
    assert said == f"10:1: the name x is declared already, at {directory}/a.toml:1"


def test_a_name_twice_across_files_refuses_the_later(directory: Path) -> None:
    (directory / "b.toml").write_text("\n" + link("x") + link("z"))
    found = one(directory, link("y") + link("x"))
    assert [declaration.name for declaration in found.links] == ["y", "x"]
    assert [refused.sentence for refused in found.refused] == [
        f"{directory}/b.toml:3:1: the name x is declared already, at {directory}/a.toml:5"
    ]


def test_a_name_of_a_refused_file_is_not_taken_over(directory: Path) -> None:
    (directory / "b.toml").write_text(link("x"))
    found = one(directory, link("x") + link("y", more="program.object = 'missing.o'"))
    assert not found.links
    assert {Path(refused.file).name for refused in found.refused} == {"a.toml", "b.toml"}


# Which files count.


def test_later_directories_win_and_names_give_the_order(tmp_path: Path) -> None:
    vendor, own = tmp_path / "vendor", tmp_path / "own"
    vendor.mkdir()
    own.mkdir()
    (vendor / "20.toml").write_text(link("replaced"))
    (vendor / "30.toml").write_text(link("vendors"))
    (vendor / "40.toml").write_text(link("masked-by-nothing"))
    (vendor / "50.toml").write_text(link("masked-by-null"))
    (own / "20.toml").write_text(link("ours"))
    (own / "10.toml").write_text(link("first"))
    (own / "40.toml").write_text("")
    (own / "50.toml").symlink_to("/dev/null")
    (own / ".#10.toml").symlink_to("an editor's lock")
    (own / "10.toml~").write_text("[")
    found = read(vendor, tmp_path / "not there", own)
    assert [declaration.name for declaration in found.links] == ["first", "ours", "vendors"]
    assert not found.refused


def test_a_bad_file_masks_all_the_same_and_what_it_masks_counts_as_refused(tmp_path: Path) -> None:
    for name, text in (("vendor", link("v")), ("more", link("m")), ("own", "[")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.toml").write_text(text)
    found = read(tmp_path / "vendor", tmp_path / "more", tmp_path / "own")
    assert not found.links
    assert [refused.file for refused in found.refused] == [
        str(tmp_path / name / "a.toml") for name in ("own", "vendor", "more")
    ]


def test_what_a_directory_that_cannot_be_read_would_replace_does_not_count(tmp_path: Path) -> None:
    for name in ("vendor", "after"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.toml").write_text(link(name))
    (tmp_path / "own").write_text("a file")
    found = read(tmp_path / "vendor", tmp_path / "own", tmp_path / "after")
    assert [declaration.name for declaration in found.links] == ["after"]
    assert {refused.file for refused in found.refused} == {str(tmp_path / "own"), str(tmp_path / "vendor")}
    assert "Not a directory" in found.refused[0].sentence
    assert f"{tmp_path}/own may replace them" in found.refused[1].sentence


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(Path.mkdir, "is a directory", id="a directory"),
        pytest.param(os.mkfifo, "not a regular file", id="a fifo, without waiting for its writer"),
        pytest.param(lambda path: path.symlink_to(path), "symbolic links", id="a link to itself"),
        pytest.param(lambda path: path.symlink_to("nowhere"), "No such file", id="a link to nothing"),
        pytest.param(
            lambda path: path.write_bytes(b"#" * (directories.MAX_FILE + 1)),
            "at most 4194304",
            id="too large by one",
        ),
    ],
)
def test_files_that_are_no_files(directory: Path, make: Callable[[Path], object], says: str) -> None:
    make(directory / "a.toml")
    assert says in sentence(read(directory))


def test_a_name_that_cannot_be_shown_is_refused(directory: Path) -> None:
    with open(os.fsencode(directory) + b"/\xff.toml", "w") as file:
        file.write(link("x"))
    assert "holds characters that cannot be shown" in sentence(read(directory))


def test_the_vendors_directory_is_for_the_system_alone() -> None:
    assert links.directories(Path("/etc/bpflinkd")) == (
        Path("/usr/lib/bpflinkd/links.d"),
        Path("/etc/bpflinkd/links.d"),
    )
    assert links.directories(Path("/x")) == (Path("/x/links.d"),)


# Who may write.


@pytest.mark.parametrize(
    ("uid", "mode", "sticky", "says"),
    [
        pytest.param(0, 0o100644, True, "", id="root's"),
        pytest.param(0, 0o100444, True, "", id="nobody writes"),
        pytest.param(7, 0o100644, True, "is owned by", id="another's"),
        pytest.param(0, 0o100664, True, "can be written by its group", id="the group's too"),
        pytest.param(0, 0o100646, True, "can be written by everybody", id="everybody's"),
        pytest.param(0, 0o041777, True, "", id="sticky, as /tmp"),
        pytest.param(0, 0o041777, False, "can be written by everybody", id="sticky, where any file counts"),
        pytest.param(0, 0o040777, True, "can be written by everybody", id="a directory without"),
        pytest.param(0, 0o101666, True, "can be written by everybody", id="sticky means nothing for files"),
        pytest.param(0, 0o120777, True, "", id="a symbolic link"),
        pytest.param(7, 0o120777, True, "is owned by", id="another's symbolic link"),
    ],
)
def test_who_could_change_it(uid: int, mode: int, sticky: bool, says: str) -> None:
    said = trust.fault("/x", uid, mode, trust.ROOT, sticky=sticky)
    assert (says in said) if says else not said


@pytest.mark.parametrize(
    ("what", "mode"),
    [
        pytest.param("links.d/a.toml", 0o664, id="the file"),
        pytest.param("links.d", 0o775, id="its directory"),
        pytest.param("links.d", 0o1777, id="its directory, sticky"),
        pytest.param("lib/x.o", 0o646, id="the object"),
        pytest.param("lib", 0o757, id="the object's directory"),
        pytest.param("lib/real.o", 0o646, id="what a symbolic link leads to"),
        pytest.param("there", 0o757, id="where it leads through"),
    ],
)
def test_what_others_can_write_is_not_read(tmp_path: Path, what: str, mode: int) -> None:
    for name in ("links.d", "lib", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "lib/x.o").write_bytes(ELF)
    (tmp_path / "lib/real.o").write_bytes(ELF)
    (tmp_path / "there/x.o").symlink_to(tmp_path / "lib/real.o")
    (tmp_path / "links.d/a.toml").write_text(
        link("a", more="program.object = '../lib/x.o'") + link("b", more="program.object = '../there/x.o'")
    )
    where = tmp_path / "links.d"
    assert len(read(where).links) == 2
    (tmp_path / what).chmod(mode)
    found = read(where)
    assert not found.links
    assert f"{tmp_path / what} can be written by" in found.refused[0].sentence
    assert len(LinksDirectory([where], trusted=None).read().links) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["links.d", "links.d/a.toml", "links.d/x.o"])
def test_what_others_own_is_not_read(directory: Path, what: str) -> None:
    (directory / "x.o").write_bytes(ELF)
    (directory / "a.toml").write_text(link("a", more="program.object = 'x.o'"))
    assert links.read([directory]).links
    os.chown(directory.parent / what, 7, -1)
    assert f"{directory.parent / what} is owned by" in sentence(links.read([directory]))


# What is read again.


@pytest.fixture(name="parsed")
def _parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was given to tomllib. Every file counts as settled, however young it is."""
    seen: list[str] = []
    real = tomllib.loads

    def loads(text: str) -> dict[str, Any]:
        seen.append(text)
        return real(text)

    monkeypatch.setattr(tomllib, "loads", loads)
    monkeypatch.setattr(files_module, "_TICK", -(10**18))
    return seen


def test_what_is_unchanged_is_not_read_again(directory: Path, parsed: list[str]) -> None:
    (directory / "x.o").write_bytes(ELF)
    (directory / "a.toml").write_text(link("a", more="program.object = 'x.o'"))
    here = reader(directory)
    first = here.read()
    parsed.clear()
    second = here.read()
    assert second == first
    assert not parsed
    (one_image,), (other_image,) = ([link.program for link in found.links] for found in (first, second))
    assert isinstance(one_image, ObjectImage)
    assert isinstance(other_image, ObjectImage)
    assert one_image.data is other_image.data


def test_of_a_changed_file_only_the_changed_link_is_parsed(directory: Path, parsed: list[str]) -> None:
    here = reader(directory)
    text = "".join(link(f"l{at}") for at in range(9))
    (directory / "a.toml").write_text(text)
    here.read()
    parsed.clear()
    (directory / "a.toml").write_text("# more lines\n" + text.replace('"l4"', '"other"'))
    found = here.read().links
    assert [declaration.name for declaration in found][3:6] == ["l3", "other", "l5"]
    assert [declaration.line for declaration in found] == list(range(2, 38, 4))
    assert parsed == ["# more lines\n", link("other")]


def test_a_changed_object_is_read_again(directory: Path) -> None:
    here = reader(directory)
    (directory / "x.o").write_bytes(ELF)
    (directory / "a.toml").write_text(link("a", more="program.object = 'x.o'"))
    before = here.read().links[0]
    # Of the same size, within the same tick of the clock.
    (directory / "x.o").write_bytes(ELF.swapcase())
    assert "not an ELF" in sentence(here.read())
    (directory / "x.o").write_bytes(ELF + b"!")
    assert here.read().links[0].origin.program != before.origin.program


def test_a_young_file_is_read_again_even_if_it_looks_unchanged(directory: Path) -> None:
    here = reader(directory)
    path = directory / "a.toml"
    path.write_text(link("a"))
    for name in "bcdefgh":
        # In place, so that even the inode is the same.
        path.write_text(link(name))
        assert [declaration.name for declaration in here.read().links] == [name]


def test_a_removed_file_is_forgotten(directory: Path) -> None:
    here = reader(directory)
    (directory / "a.toml").write_text(link("a"))
    (directory / "b.toml").write_text(link("b"))
    assert len(here.read().links) == 2
    assert here.accepted == (str(directory / "a.toml"), str(directory / "b.toml"))
    (directory / "a.toml").unlink()
    assert [declaration.name for declaration in here.read().links] == ["b"]


# Agreement with others.


def test_the_longest_name_of_a_template_is_the_cores(directory: Path) -> None:
    assert len(one(directory, link("x" * patterns.MAX_TEMPLATE, "xdp:v*")).templates) == 1

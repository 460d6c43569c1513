"""What the doctor makes of facts. That the kernel tells such facts is for the tests against it to show."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bpflinkd.cli.doctor import FOUND, doctor_command, line
from bpflinkd.cli.render import Output
from bpflinkd.core import attach_types, doctor, names
from bpflinkd.core.callers import User
from bpflinkd.core.findings import Circumstances, Facts, Finding, Kind, Level, WatchSource
from bpflinkd.core.ids import LinkId, Micros, ProgId, UnixMicros
from bpflinkd.core.model import (
    Feature,
    Health,
    Hold,
    Lifetime,
    LinkView,
    Occupant,
    Process,
    ProgramInfo,
    Record,
    State,
)
from bpflinkd.core.remedies import Names
from bpflinkd.core.sources import Builtin, PinnedProgram, ProgramFd, Source, StoredObject, StoredSource
from bpflinkd.core.survey import Attached, Pin, PinKind, SeenLink, Survey
from bpflinkd.core.targets import (
    CgroupTarget,
    KprobeTarget,
    Target,
    XdpMode,
    XdpTarget,
)
from tests.unit.fakes import record

EGRESS, DEVICE = attach_types.by_name("egress"), attach_types.by_name("device")
DAEMON = Process(pid=100, comm="bpflinkd")
LOADER = Process(pid=200, comm="loader")
INIT = Process(pid=1, comm="systemd")
NOTHING = Survey(
    pid=DAEMON.pid,
    cgroup_root="/sys/fs/cgroup",
    bpffs="/sys/fs/bpf",
    attached=(),
    links=(),
    pins=(),
    link_holders={},
    program_holders={},
    cut=(),
)


def program(number: int, name: str = "filter", tag: str = "") -> ProgramInfo:
    return ProgramInfo(id=ProgId(number), name=name, tag=tag or f"{number:016x}", type=8)


def on_xdp(number: int = 5, link: int | None = None, interface: str = "eth0") -> Attached:
    target = XdpTarget(interface=interface, mode=XdpMode.NATIVE)
    return Attached(target=target, program=program(number), link_id=None if link is None else LinkId(link))


def on_cgroup(path: str = "/a", number: int = 5, link: int | None = None, **more: Any) -> Attached:
    target = CgroupTarget(path=path, attach_type=more.pop("attach_type", EGRESS))
    told = program(number, **more)
    return Attached(target=target, program=told, link_id=None if link is None else LinkId(link))


def seen(number: int, kind: str = "xdp", *, dead: bool = False) -> SeenLink:
    return SeenLink(id=LinkId(number), kind=kind, prog_id=ProgId(5), dead=dead)


def pin(path: str, number: int, kind: PinKind = PinKind.LINK) -> Pin:
    return Pin(path=path, kind=kind, id=number)


def view(
    state: State = State.ACTIVE,
    link: int | None = 7,
    running: Occupant | None = None,
    *,
    of: Record | None = None,
    **more: Any,
) -> LinkView:
    made = replace(of or record(), **more)
    health = Health(state=state, reason="a reason", since=UnixMicros(1), running=running)
    return LinkView(record=made, health=health, link_id=None if link is None else LinkId(link))


def examine(survey: Survey = NOTHING, *views: LinkView, **more: Any) -> list[Finding]:
    given: dict[str, Any] = {
        "survey": survey,
        "links": views,
        "ours": frozenset(each.link_id for each in views if each.link_id is not None),
        "strays": frozenset(),
        "features": (),
        "circumstances": Circumstances(),
        "asker": User(uid=0),
    }
    return list(doctor.examine(Facts(**(given | more))))


def told(findings: list[Finding]) -> list[tuple[Level, Kind, str]]:
    return [(finding.level, finding.kind, finding.where) for finding in findings]


def lines(finding: Finding) -> list[str]:
    return [shlex.join(command) for command in finding.commands]


def test_a_host_without_anything_is_without_findings() -> None:
    assert examine() == []
    assert examine(replace(NOTHING, attached=(on_xdp(link=7),), links=(seen(7),)), view()) == []


@pytest.mark.parametrize(
    ("attached", "holders", "pins", "level", "kind", "command"),
    [
        pytest.param(
            on_xdp(),
            (),
            (),
            Level.WARNING,
            Kind.NETLINK_XDP,
            "bpflinkctl adopt xdp-eth0 --xdp=eth0",
            id="netlink",
        ),
        pytest.param(
            on_xdp(link=3),
            (LOADER,),
            (),
            Level.WARNING,
            Kind.UNPINNED_LINK,
            "bpflinkctl adopt xdp-eth0 --link-id=3",
            id="a link that only a process holds",
        ),
        pytest.param(
            on_xdp(link=3),
            (),
            (pin("/p", 3),),
            Level.WARNING,
            Kind.UNOWNED_LINK,
            "bpflinkctl adopt xdp-eth0 --link-id=3",
            id="a pinned link that nobody holds",
        ),
        pytest.param(
            on_xdp(link=3),
            (LOADER,),
            (pin("/p", 3),),
            Level.NOTE,
            Kind.UNOWNED_LINK,
            "bpflinkctl adopt xdp-eth0 --link-id=3",
            id="a pinned link that a process looks after",
        ),
        pytest.param(
            on_cgroup("/a.slice/b", link=3),
            (),
            (),
            Level.WARNING,
            Kind.UNOWNED_LINK,
            "bpflinkctl adopt cgroup-a.slice-b-egress --link-id=3",
            id="a link on a cgroup that is kept from elsewhere",
        ),
        pytest.param(
            on_cgroup(),
            (),
            (),
            Level.WARNING,
            Kind.UNOWNED_PROGRAM,
            "bpftool cgroup detach /sys/fs/cgroup/a egress id 5",
            id="a program without a link",
        ),
    ],
)
def test_what_nobody_owns(
    attached: Attached,
    holders: tuple[Process, ...],
    pins: tuple[Pin, ...],
    level: Level,
    kind: Kind,
    command: str,
) -> None:
    number = attached.link_id
    survey = replace(
        NOTHING,
        attached=(attached,),
        links=() if number is None else (seen(number),),
        pins=pins,
        link_holders={} if number is None else {number: holders},
    )
    (finding,) = examine(survey)
    assert told([finding]) == [(level, kind, str(attached.target))]
    assert lines(finding) == [command]
    assert all(holder.comm in finding.what for holder in holders)


def test_what_became_ours_meanwhile_is_ours() -> None:
    survey = replace(NOTHING, attached=(on_xdp(link=3), on_xdp(link=4)), links=(seen(3), seen(4)))
    held = replace(survey, link_holders={LinkId(3): (DAEMON,)})
    assert [each.where for each in examine(held)] == ["xdp:eth0"]
    assert examine(held, ours=frozenset({LinkId(4)})) == []


@pytest.mark.parametrize(
    ("attached", "holders", "systems"),
    [
        pytest.param(on_cgroup(name="sd_fw_egress"), (), True, id="a filter of systemd's"),
        pytest.param(on_cgroup(name="", attach_type=DEVICE), (), True, id="a container's device rules"),
        pytest.param(on_cgroup(name="sd_bind4", link=3), (INIT,), True, id="a link that pid 1 holds"),
        pytest.param(
            on_cgroup(name="sd_bind4", link=3), (LOADER,), False, id="a link by another of that name"
        ),
        pytest.param(on_cgroup(name="mine", link=3), (INIT,), False, id="another link that pid 1 holds"),
        pytest.param(on_cgroup(name="mine"), (), False, id="another program"),
    ],
)
def test_the_service_managers_own_programs_are_one_note(
    attached: Attached, holders: tuple[Process, ...], systems: bool
) -> None:
    attach_type = attached.target.attach_type
    above = replace(attached, target=CgroupTarget(path="/", attach_type=attach_type), link_id=None)
    survey = replace(
        NOTHING,
        attached=(above, attached) if attached.link_id is None else (attached,),
        link_holders={LinkId(3): holders},
        pins=(pin("/p", 3),),
    )
    findings = examine(survey)
    assert all((finding.kind is Kind.SYSTEM_PROGRAM) == systems for finding in findings)
    if systems:
        assert told(findings) == [(Level.NOTE, Kind.SYSTEM_PROGRAM, "")]


def test_links_that_end_with_a_process_and_cannot_be_ours_are_one_note() -> None:
    links = (
        *(seen(number, "tracing") for number in range(1, 20)),
        seen(20, "perf_event"),
        seen(21, "tracing"),
    )
    survey = replace(
        NOTHING,
        links=links,
        link_holders={link.id: (LOADER,) for link in links},
        pins=(pin("/p", 21),),
    )
    (finding,) = examine(survey)
    assert told([finding]) == [(Level.NOTE, Kind.UNPINNED_LINK, "")]
    assert "loader (pid 200): 1 perf_event, 19 tracing" in finding.what
    assert lines(finding)[0] == "bpftool link pin id 1 /sys/fs/bpf/link_1"
    assert len(finding.commands) < len(links)


# Twice


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param(on_cgroup("/a", 5, 3), on_cgroup("/a", 5), True, id="on one cgroup"),
        pytest.param(on_cgroup("/a", 5, 3), on_cgroup("/a/b/c", 5), True, id="below"),
        pytest.param(on_cgroup("/", 5, 3), on_cgroup("/a", 5), True, id="below the root"),
        pytest.param(on_cgroup("/a", 5, 3), on_cgroup("/a/b", 6, tag=f"{5:016x}"), True, id="loaded twice"),
        pytest.param(on_cgroup("/a", 5, 3), on_cgroup("/ab", 5), False, id="beside"),
        pytest.param(on_cgroup("/a", 5, 3), on_cgroup("/a", 6), False, id="another program"),
        pytest.param(
            on_cgroup("/a", 5, 3, attach_type=attach_types.by_name("ingress")),
            on_cgroup("/a", 5),
            False,
            id="another attach type",
        ),
        pytest.param(
            on_cgroup("/a", 5, 3, tag="0" * 16),
            on_cgroup("/a", 5, tag="0" * 16),
            False,
            id="no tag is no sameness",
        ),
    ],
)
def test_the_same_program_twice(one: Attached, other: Attached, same: bool) -> None:
    findings = examine(replace(NOTHING, attached=(one, other)))
    twice = [finding for finding in findings if finding.kind is Kind.ATTACHED_TWICE]
    assert len(twice) == same
    if same:
        assert twice[0].where == str(other.target)
        assert isinstance(other.target, CgroupTarget)
        place, number = f"/sys/fs/cgroup{other.target.path}", other.program.id
        assert lines(twice[0]) == [f"bpftool cgroup detach {place} egress id {number}"]


def test_of_two_the_one_that_is_ours_is_detached_as_ours() -> None:
    theirs, ours = on_cgroup("/a", 5), on_cgroup("/a/b", 5, 7)
    owned = view(target=ours.target, owner=User(uid=8))
    findings = examine(replace(NOTHING, attached=(theirs, ours)), owned)
    (twice,) = [finding for finding in findings if finding.kind is Kind.ATTACHED_TWICE]
    assert lines(twice) == ["bpflinkctl detach edge --force"]


def test_links_of_ours_on_one_function() -> None:
    probe = KprobeTarget(symbol="tcp_connect")
    one, same = view(name="one", target=probe), view(name="same", target=probe)
    there = replace(one.record.generation, program=program(9))
    other = view(name="other", target=probe, generation=there)
    elsewhere = view(name="elsewhere", target=KprobeTarget(symbol="tcp_connect", at_return=True))
    findings = examine(NOTHING, one, same, other, elsewhere)
    assert told(findings) == [
        (Level.WARNING, Kind.ATTACHED_TWICE, "kprobe:tcp_connect"),
        (Level.NOTE, Kind.ATTACHED_TWICE, "kprobe:tcp_connect"),
    ]
    assert lines(findings[0]) == ["bpflinkctl detach same"]


# Pins


def test_pins_that_lead_nowhere() -> None:
    survey = replace(
        NOTHING,
        attached=(on_xdp(6),),
        links=(seen(1, dead=True), seen(2), seen(7, dead=True)),
        pins=(
            pin("/dead", 1),
            pin("/alive", 2),
            pin("/ours", 7),
            pin("/gone", 99),
            pin("/idle", 77, PinKind.PROGRAM),
            pin("/linked", 5, PinKind.PROGRAM),
            pin("/by-netlink", 6, PinKind.PROGRAM),
            pin("/of-ours", 1, PinKind.PROGRAM),
            pin("/map", 0, PinKind.OTHER),
        ),
    )
    findings = [f for f in examine(survey, view()) if f.kind is not Kind.NETLINK_XDP]
    assert told(findings) == [
        (Level.WARNING, Kind.DEAD_PIN, "/dead"),
        (Level.NOTE, Kind.IDLE_PROGRAM, "/idle"),
    ]
    assert [lines(finding) for finding in findings] == [["rm /dead"], ["rm /idle"]]


def test_a_directory_of_nobodys_is_emptied_into_ours() -> None:
    survey = replace(
        NOTHING,
        attached=(on_xdp(link=3),),
        links=(seen(3), seen(4, dead=True)),
        pins=(
            pin("/b/xdp_2deth0/link", 3),
            pin("/b/xdp_2deth0/next_link", 4),
            pin("/b/xdp_2deth0/program", 77, PinKind.PROGRAM),
        ),
    )
    (finding,) = examine(survey, strays=frozenset({"/b/xdp_2deth0"}))
    assert told([finding]) == [(Level.WARNING, Kind.STRAY_PINS, "/b/xdp_2deth0")]
    # The directory's own name is taken as long as it is there.
    assert lines(finding) == ["bpflinkctl adopt xdp-eth0-2 --link-id=3", "rm -r /b/xdp_2deth0"]


# Our links


EDGE = "bpflinkctl replace edge"
AS_IT_WAS = "--policy=alert --lifetime=pinned --owner=user:0"
STRANGER = Occupant(program=program(9), link_id=LinkId(4), mode=XdpMode.GENERIC)


@pytest.mark.parametrize(
    ("state", "running", "level", "commands"),
    [
        (State.SEVERED, None, Level.FAULT, [f"{EDGE} --builtin=pass"]),
        (State.FAILED, None, Level.FAULT, [f"{EDGE} --builtin=pass"]),
        (State.DISPLACED, STRANGER, Level.FAULT, ["bpftool link detach id 4", f"{EDGE} --builtin=pass"]),
        (
            State.DISPLACED,
            replace(STRANGER, link_id=None),
            Level.FAULT,
            ["ip link set dev eth0 xdpgeneric off", f"{EDGE} --builtin=pass"],
        ),
        (
            State.TAMPERED,
            STRANGER,
            Level.FAULT,
            [
                "bpflinkctl detach edge",
                f"bpflinkctl attach edge xdp:eth0 {AS_IT_WAS} --builtin=pass",
            ],
        ),
        (State.WAITING, None, Level.WARNING, ["bpflinkctl detach edge"]),
    ],
)
def test_a_link_that_is_not_active(
    state: State, running: Occupant | None, level: Level, commands: list[str]
) -> None:
    (finding,) = examine(NOTHING, view(state, running=running))
    assert told([finding]) == [(level, Kind.LINK_STATE, "link edge")]
    assert "a reason" in finding.what
    assert lines(finding) == commands


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Builtin(name="pass"), ["--builtin=pass"]),
        (PinnedProgram(path="/a b"), ["--pinned=/a b"]),
        (ProgramFd(), ["--id=1"]),
        (StoredObject(sha256="a", program="p"), ["--object", "edge.exported/edge.bpf.o", "--program", "p"]),
        (StoredSource(sha256="a", program="p"), ["--source", "edge.exported/edge.c", "--program", "p"]),
    ],
)
def test_the_program_comes_from_where_it_came_from(source: Source, words: list[str]) -> None:
    generation = replace(record().generation, source=source)
    (finding,) = examine(NOTHING, view(State.SEVERED, generation=generation, owner=User(uid=8)))
    *fetched, last = finding.commands
    assert last == ("bpflinkctl", "replace", "edge", *words, "--force")
    assert fetched == (
        [("bpflinkctl", "export", "edge", "--directory=edge.exported")] if len(words) > 1 else []
    )


@pytest.mark.parametrize("asker", [0, 8])
def test_only_the_owner_is_told_to_claim(asker: int) -> None:
    hold = Hold(holder=":1.5", bus="b", grace=Micros(10_000_000))
    held = view(lifetime=Lifetime.OWNER, hold=hold)
    about = Circumstances(lapsing=frozenset({"edge"}))
    (finding,) = examine(NOTHING, held, circumstances=about, asker=User(uid=asker))
    assert told([finding]) == [(Level.WARNING, Kind.HOLDER_GONE, "link edge")]
    assert "it ends once 10 s" in finding.what
    assert lines(finding) == (["bpflinkctl claim edge"] if asker == 0 else [])


# The host


def test_what_the_daemon_and_the_kernel_lack() -> None:
    about = Circumstances(
        sources=(
            WatchSource(name="netlink", live=True, detail="interfaces"),
            WatchSource(name="sentinel", live=False, detail="no BTF"),
        ),
        refused=("/etc/x.toml:3: no",),
    )
    features = (Feature(name="xdp"), Feature(name="kprobe", lacks="no kprobes"))
    findings = examine(replace(NOTHING, cut=("much",)), circumstances=about, features=features)
    assert [finding.what for finding in findings] == [
        "/etc/x.toml:3: no",
        "changes by others are noticed by: netlink",
        "the watch source sentinel is not live: no BTF",
        "kprobe cannot be used here: no kprobes",
        "much",
    ]
    assert [finding.level for finding in findings] == [Level.FAULT, *[Level.NOTE] * 4]


def test_the_worst_comes_first_and_not_all_of_many() -> None:
    many = tuple(pin(f"/p{number:04}", number, PinKind.PROGRAM) for number in range(1000, 2000))
    findings = examine(replace(NOTHING, pins=many, attached=(on_xdp(),)), view(State.SEVERED))
    assert [finding.level for finding in findings[:3]] == [Level.FAULT, Level.WARNING, Level.NOTE]
    assert len(findings) == 2 + doctor.MOST + 1
    assert f"{1000 - doctor.MOST} more findings of the kind idle-program" in findings[-1].what


# Names


@pytest.mark.parametrize("path", ["/a\x1b[2J", "/a\nb", "/a\u202eb", "/a\udcff", "/a\u00adb"])
def test_what_cannot_be_typed_is_in_no_command_and_can_travel(path: str) -> None:
    (finding,) = examine(replace(NOTHING, attached=(on_cgroup(path),)))
    assert finding.commands == ()
    assert "ls -b" in finding.advice
    finding.where.encode()


@pytest.mark.parametrize(
    "nasty", ["$(id)", "`id`", "a'b", 'a"b', "a b", "-rf", "a;b", "a\\b", "!!", "é", "*"]
)
def test_names_are_quoted_for_a_shell(nasty: str) -> None:
    (finding,) = examine(replace(NOTHING, attached=(on_cgroup(f"/{nasty}"),)))
    (command,) = finding.commands
    assert shlex.split(line(command, "system")) == list(command)
    assert command[3] == f"/sys/fs/cgroup/{nasty}"


def test_our_commands_are_for_the_daemon_that_was_asked() -> None:
    assert line(["bpflinkctl", "reload"], "system") == "bpflinkctl reload"
    assert line(["bpflinkctl", "reload"], "unix:path=/a b") == "bpflinkctl --bus 'unix:path=/a b' reload"
    assert line(["rm", "-r", "/a"], "session") == "rm -r /a"


class Answers:
    """Settings of a command line, and a client that answers with these findings."""

    bus = "system"

    def __init__(self, *findings: dict[str, Any], as_json: bool = False) -> None:
        self.json = as_json
        self._findings = [{"where": "", "advice": "", "commands": [], "kind": "watch", **f} for f in findings]

    def client(self, *, doing: str) -> "Answers":
        assert doing
        return self

    def doctor(self) -> list[dict[str, Any]]:
        return self._findings

    def output(self) -> Output:
        return Output(json=self.json, no_color=True)


@pytest.mark.parametrize(
    ("levels", "code"),
    [
        ([], 0),
        (["note"], 0),
        (["note", "warning"], FOUND),
        (["fault", "note"], FOUND),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_the_exit_code_tells_whether_something_is_to_be_done(
    capsys: pytest.CaptureFixture[str], levels: list[str], code: int, as_json: bool
) -> None:
    answers = Answers(*({"level": level, "what": "a sentence"} for level in levels), as_json=as_json)
    assert (doctor_command.main([], obj=answers, standalone_mode=False) or 0) == code
    shown = capsys.readouterr().out
    if as_json:
        assert [finding["level"] for finding in json.loads(shown)["findings"]] == levels
    else:
        assert shown.splitlines()[-1].count(" ") == 5


def test_findings_are_grouped_by_level_with_what_to_do_below(capsys: pytest.CaptureFixture[str]) -> None:
    answers = Answers(
        {
            "level": "fault",
            "what": "one",
            "where": "xdp:a\x1b",
            "commands": [["rm", "/a b"], ["bpflinkctl", "reload"]],
        },
        {"level": "fault", "what": "two", "advice": "do this:"},
        {"level": "note", "what": "three"},
    )
    doctor_command.main([], obj=answers, standalone_mode=False)
    assert capsys.readouterr().out.splitlines() == [
        "fault: xdp:a\\x1b: one",
        "        rm '/a b'",
        "        bpflinkctl reload",
        "fault: two",
        "    do this:",
        "",
        "note: three",
        "",
        "2 faults, 0 warnings, 1 note",
    ]


@pytest.mark.parametrize(
    "target",
    [
        XdpTarget(interface="é|/"),
        XdpTarget(interface="-"),
        CgroupTarget(path="/" + "x/" * 2000, attach_type=EGRESS),
        CgroupTarget(path="/", attach_type=EGRESS),
        CgroupTarget(path="/\udcff", attach_type=EGRESS),
        CgroupTarget(path="/" + "." * 200, attach_type=EGRESS),
    ],
)
def test_suggested_names_can_be_had_and_are_given_once(target: Target) -> None:
    assert isinstance(target, XdpTarget | CgroupTarget)
    given = Names(("xdp-eth0",), ())
    first, second = given.suggest(target), given.suggest(target)
    assert first != second
    assert (names.check(first), names.check(second)) == (first, second)


def test_every_kind_and_level_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    assert re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE) == [*Level, *Kind]

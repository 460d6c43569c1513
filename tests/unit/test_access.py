"""Who may do what: owners, grants, administrators, and everybody else."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bpflinkd.core import attach_types, grants
from bpflinkd.core.access import Access, Unsanctioned
from bpflinkd.core.attach_types import AttachType, ProgramType
from bpflinkd.core.callers import Action, Actor, Caller, Group, Owner, Unit, User
from bpflinkd.core.errors import BpflinkdError, LimitExceeded, NotAuthorized, NotOwner
from bpflinkd.core.grants import Grant, GrantedTarget
from bpflinkd.core.ids import ProgId, UnixMicros
from bpflinkd.core.model import Confinement, Generation, Lifetime, Policy, ProgramInfo, Record
from bpflinkd.core.sources import (
    Builtin,
    ObjectFile,
    ObjectImage,
    PinnedProgram,
    ProgramById,
    ProgramFd,
    SourceFile,
    SourceText,
    WantedProgram,
)
from bpflinkd.core.targets import (
    CgroupPlace,
    CgroupTarget,
    KprobeMultiTarget,
    KprobeTarget,
    Target,
    WantedTarget,
    XdpMode,
    XdpTarget,
)

EGRESS, INGRESS, CONNECT4 = map(attach_types.by_name, ("egress", "ingress", "connect4"))
ETH0 = XdpTarget(interface="eth0")
PASS = Builtin(name="pass")
ROOT = Caller(uid=0)
TW = Caller(uid=812, gids=frozenset({812, 990}), pid=7, unit="tw-agent.service", name=":1.7")
SHELL = Caller(uid=812, gids=frozenset({812, 990}), unit="session-3.scope")
STRANGER = Caller(uid=1000, gids=frozenset({1000}), unit="session-4.scope")
USER = User(uid=812)
AGENT = Unit(name="tw-agent.service")
OTHERS = Unit(name="other.service")


def grant(*targets: GrantedTarget, holder: grants.Holder = USER, **more: Any) -> Grant:
    given = targets or (xdp("eth*"),)
    return Grant(holder=holder, targets=given, file="/etc/bpflinkd/grants.d/tw.toml", line=3, **more)


def xdp(place: str) -> GrantedTarget:
    return GrantedTarget(kind="xdp", place=place)


def interface(name: str) -> XdpTarget:
    return XdpTarget(interface=name)


def function(place: str, kind: str = "kprobe") -> GrantedTarget:
    return GrantedTarget(kind=kind, place=place)


def cgroup(path: str, attach_type: AttachType | None = None) -> GrantedTarget:
    return GrantedTarget(kind="cgroup", place=path, attach_type=attach_type)


def access(*given: Grant) -> Access:
    made = Access()
    made.grants = given
    return made


def record(owner: Owner, target: Target = ETH0, name: str = "edge") -> Record:
    generation = Generation(
        number=1,
        program=ProgramInfo(id=ProgId(1), name="p", tag="0" * 16, type=ProgramType.XDP),
        source=PASS,
        since=UnixMicros(0),
        by=Actor(uid=0),
    )
    return Record(
        name=name,
        target=target,
        owner=owner,
        policy=Policy.ALERT,
        lifetime=Lifetime.PINNED,
        created=UnixMicros(0),
        generation=generation,
    )


def put(
    rules: Access,
    caller: Caller = TW,
    target: WantedTarget = ETH0,
    program: WantedProgram = PASS,
    policy: Policy | None = Policy.ALERT,
) -> Confinement | None:
    return rules.put(caller, target, program, policy, action=Action.ATTACH)


def refusal(ask: Callable[[], object]) -> tuple[BpflinkdError, Action | None]:
    """What is refused, and what polkit could allow."""
    try:
        ask()
    except Unsanctioned as error:
        return error.refusal, error.action
    except BpflinkdError as error:
        return error, None
    pytest.fail("it was not refused")


# Owners.


@pytest.mark.parametrize(
    ("caller", "owner", "may"),
    [
        pytest.param(ROOT, User(uid=0), True, id="root its own"),
        pytest.param(ROOT, User(uid=812), False, id="root another's, without a word"),
        pytest.param(TW, User(uid=812), True, id="a user its own"),
        pytest.param(SHELL, User(uid=812), True, id="a user its own, from anywhere"),
        pytest.param(TW, AGENT, True, id="a unit its own"),
        pytest.param(SHELL, AGENT, False, id="the unit's user outside of the unit"),
        pytest.param(STRANGER, User(uid=812), False, id="a stranger a user's"),
        pytest.param(STRANGER, AGENT, False, id="a stranger a unit's"),
        pytest.param(TW, OTHERS, False, id="a unit another unit's"),
        pytest.param(TW, User(uid=0), False, id="a user root's"),
        pytest.param(Caller(uid=812), Unit(name=""), False, id="of no unit, one that is of no unit"),
    ],
)
def test_only_the_owner_changes_a_link(caller: Caller, owner: Owner, may: bool) -> None:
    rules = access(grant(holder=User(uid=1000)), grant())
    sanctioned = caller.sanctioned(Action.CHANGE_OWN)
    if may:
        assert not rules.change(sanctioned, record(owner), "detach it")
        return
    error, action = refusal(lambda: rules.change(sanctioned, record(owner), "detach it"))
    assert isinstance(error, NotOwner)
    assert action is None
    assert f"uid {caller.uid}" in str(error)
    assert "link 'edge' is owned by " in str(error)
    assert "may not detach it; an administrator may with --force" in str(error)


def test_a_unit_is_told_apart_from_its_user_in_a_refusal() -> None:
    error, _ = refusal(lambda: access().change(SHELL, record(AGENT), "replace its program"))
    assert str(error) == (
        "link 'edge' is owned by unit tw-agent.service, so uid 812 in session-3.scope may not replace "
        "its program; an administrator may with --force"
    )


def test_with_force_an_administrator_overrides_and_it_is_told() -> None:
    owned = record(AGENT)
    assert access().change(ROOT, owned, "detach it", force=True)
    assert access().change(STRANGER.sanctioned(Action.CHANGE_ANY), owned, "detach it", force=True)
    assert not access().change(ROOT, record(User(uid=0)), "detach it", force=True)
    error, action = refusal(lambda: access().change(STRANGER, owned, "detach it", force=True))
    assert isinstance(error, NotOwner)
    assert action is Action.CHANGE_ANY


@pytest.mark.parametrize("action", sorted(set(Action) - {Action.CHANGE_ANY}))
def test_no_other_sanction_is_one_to_override(action: Action) -> None:
    caller = STRANGER.sanctioned(action)
    assert (
        refusal(lambda: access().change(caller, record(AGENT), "detach it", force=True))[1]
        is Action.CHANGE_ANY
    )


def test_polkit_may_keep_an_owner_from_its_own_links() -> None:
    error, action = refusal(lambda: access().change(TW, record(User(uid=812)), "detach it"))
    assert isinstance(error, NotAuthorized)
    assert action is Action.CHANGE_OWN
    assert "polkit does not let uid 812 in tw-agent.service change link 'edge'" in str(error)


@pytest.mark.parametrize(
    ("caller", "owner", "may"),
    [
        pytest.param(TW, User(uid=812), True, id="itself"),
        pytest.param(TW, AGENT, True, id="its unit"),
        pytest.param(SHELL, AGENT, False, id="its user's unit that it is not in"),
        pytest.param(TW, User(uid=0), False, id="root"),
        pytest.param(TW, OTHERS, False, id="another unit"),
        pytest.param(ROOT, OTHERS, True, id="root anybody"),
        pytest.param(STRANGER.sanctioned(Action.CHANGE_ANY), AGENT, True, id="an administrator anybody"),
        pytest.param(STRANGER.sanctioned(Action.ATTACH), AGENT, False, id="an administrator of attaching"),
    ],
)
def test_who_may_be_made_the_owner_of_a_new_link(caller: Caller, owner: Owner, may: bool) -> None:
    if may:
        access().own(caller, owner)
        return
    error, action = refusal(lambda: access().own(caller, owner))
    assert action is Action.CHANGE_ANY
    assert isinstance(error, NotAuthorized)
    assert f"uid {caller.uid} in {caller.unit} may not make " in str(error)


# Administrators.


@pytest.mark.parametrize("action", Action)
def test_what_only_administrators_do(action: Action) -> None:
    access().administer(ROOT, action, "reload")
    access().administer(STRANGER.sanctioned(action), action, "reload")
    others = STRANGER
    for other in set(Action) - {action}:
        others = others.sanctioned(other)
    error, wanted = refusal(lambda: access(grant()).administer(others, action, "reload"))
    assert (type(error), wanted) == (NotAuthorized, action)
    assert str(error).startswith("uid 1000 in session-4.scope may not reload: only root may")


@pytest.mark.parametrize(
    ("caller", "may"),
    [
        pytest.param(ROOT, True, id="root"),
        pytest.param(TW, True, id="the owner"),
        pytest.param(SHELL, False, id="its user elsewhere"),
        pytest.param(STRANGER.sanctioned(Action.VIEW), True, id="whom polkit lets view"),
        pytest.param(STRANGER.sanctioned(Action.CHANGE_ANY), False, id="whom polkit lets change"),
    ],
)
def test_who_reads_the_file_of_a_program(caller: Caller, may: bool) -> None:
    if may:
        access().see_file(caller, record(AGENT))
        return
    error, action = refusal(lambda: access().see_file(caller, record(AGENT)))
    assert action is Action.VIEW
    assert "link 'edge', which unit tw-agent.service owns" in str(error)


# Grants: for whom.


@pytest.mark.parametrize(
    ("holder", "caller", "may"),
    [
        pytest.param(User(uid=812), SHELL, True, id="a user"),
        pytest.param(User(uid=812), STRANGER, False, id="another user"),
        pytest.param(Group(gid=990), SHELL, True, id="a member of a group"),
        pytest.param(Group(gid=990), STRANGER, False, id="one who is not in it"),
        pytest.param(Group(gid=1000), Caller(uid=1000), False, id="a user of the same number as a group"),
        pytest.param(User(uid=990), TW, False, id="a group of the same number as a user"),
        pytest.param(AGENT, TW, True, id="a process of a unit"),
        pytest.param(AGENT, SHELL, False, id="the same user elsewhere"),
        pytest.param(OTHERS, TW, False, id="another unit"),
        pytest.param(Unit(name="tw-agent.servic"), TW, False, id="a unit whose name is the beginning of it"),
        pytest.param(Unit(name=""), Caller(uid=812), False, id="of no unit"),
    ],
)
def test_a_grant_is_for_its_holder(holder: grants.Holder, caller: Caller, may: bool) -> None:
    rules = access(grant(holder=holder))
    if may:
        assert put(rules, caller) == Confinement(kernel_memory=False, maps=32, memory=64 << 20)
        return
    error, action = refusal(lambda: put(rules, caller))
    assert (type(error), action) == (NotAuthorized, Action.ATTACH)
    assert str(error).startswith(f"uid {caller.uid}")
    assert "has no grant for xdp:eth0" in str(error)
    assert "/etc/bpflinkd/grants.d" in str(error)


def test_root_and_administrators_need_no_grant_and_are_not_confined() -> None:
    for caller in (ROOT, STRANGER.sanctioned(Action.ATTACH)):
        assert put(access(grant(holder=User(uid=caller.uid))), caller) is None


@pytest.mark.parametrize("action", sorted(set(Action) - {Action.ATTACH}))
def test_a_sanction_for_something_else_does_not_attach(action: Action) -> None:
    assert refusal(lambda: put(access(), STRANGER.sanctioned(action)))[1] is Action.ATTACH


@pytest.mark.parametrize("program", [PinnedProgram(path="/sys/fs/bpf/x"), ProgramById(id=ProgId(7))])
def test_a_program_that_the_daemon_opens_is_roots_alone(program: WantedProgram) -> None:
    """A sanction of polkit's does not help: it is not about whose rights the file is opened with."""
    assert put(access(), ROOT, program=program) is None
    rules = access(grant(sources=frozenset({"pin", "id", *grants.SOURCES})))
    for caller in (TW, TW.sanctioned(Action.ATTACH)):
        error, action = refusal(lambda caller=caller: put(rules, caller, program=program))  # type: ignore[misc]
        assert (type(error), action) == (NotAuthorized, None)
        assert "uid 812 in tw-agent.service may not name the program for xdp:eth0 by its" in str(error)


# Grants: for what.

KPROBES = ("kprobe", "kretprobe", "kprobe-multi", "kretprobe-multi")


def kprobe(kind: str, place: str) -> KprobeTarget | KprobeMultiTarget:
    at_return = kind.startswith("kret")
    if kind.endswith("multi"):
        return KprobeMultiTarget(pattern=place, at_return=at_return)
    return KprobeTarget(symbol=place, at_return=at_return)


@pytest.mark.parametrize(
    ("granted", "target", "covers"),
    [
        pytest.param(xdp("eth0"), ETH0, True, id="an interface"),
        pytest.param(
            xdp("eth0"),
            XdpTarget(interface="eth0", mode=XdpMode.OFFLOAD),
            True,
            id="an interface in any mode",
        ),
        pytest.param(xdp("eth0"), interface("eth01"), False, id="longer"),
        pytest.param(xdp("eth0"), interface("eth0\n"), False, id="a line feed"),
        pytest.param(xdp("ETH0"), ETH0, False, id="upper case"),
        pytest.param(xdp("eth?"), ETH0, True, id="a character"),
        pytest.param(xdp("*"), ETH0, True, id="every interface"),
        pytest.param(xdp("*"), CgroupPlace(path="/"), False, id="not a cgroup"),
        pytest.param(
            xdp("eth*"), CgroupTarget(path="eth0", attach_type=EGRESS), False,
            id="not a cgroup of that name",
        ),
        pytest.param(xdp("f"), kprobe("kprobe", "f"), False, id="not a function"),
        pytest.param(cgroup("/a"), CgroupPlace(path="/a"), True, id="a cgroup"),
        pytest.param(cgroup("/a"), CgroupPlace(path="/a/b"), False, id="not what is below"),
        pytest.param(cgroup("/a/*"), CgroupPlace(path="/a/b"), True, id="what is below"),
        pytest.param(cgroup("/a/*"), CgroupPlace(path="/a"), False, id="not what is above"),
        pytest.param(cgroup("/a/*"), CgroupPlace(path="/a/b/c"), False, id="not what is below of that"),
        pytest.param(cgroup("/*"), CgroupPlace(path="/"), False, id="not the root, which is all of the host"),
        pytest.param(cgroup("/"), CgroupPlace(path="/"), True, id="the root"),
        pytest.param(cgroup("/"), CgroupPlace(path="/a"), False, id="only the root"),
        pytest.param(cgroup("/*/c"), CgroupPlace(path="/a/b/c"), False, id="a star within a path"),
        pytest.param(cgroup("/a/b"), CgroupPlace(path="/a/B"), False, id="a cgroup in upper case"),
        pytest.param(cgroup("/a"), ETH0, False, id="not an interface"),
        pytest.param(cgroup("/a", EGRESS), CgroupTarget(path="/a", attach_type=EGRESS), True, id="a type"),
        pytest.param(cgroup("/a", EGRESS), CgroupTarget(path="/a", attach_type=INGRESS), False, id="another"),
        pytest.param(cgroup("/a"), CgroupTarget(path="/b", attach_type=EGRESS), False, id="elsewhere"),
        pytest.param(cgroup("/a"), CgroupTarget(path="/a", attach_type=CONNECT4), True, id="any type"),
        pytest.param(cgroup("/a", EGRESS), CgroupPlace(path="/a"), True, id="a type that is not known yet"),
        *(
            pytest.param(function("tcp_*", kind), kprobe(other, "tcp_*"), kind == other,
                         id=f"{kind} and {other}")
            for kind in KPROBES for other in KPROBES
        ),
        pytest.param(function("tcp_*"), kprobe("kprobe", "tcp_v4"), True, id="functions"),
        pytest.param(
            function("f"), KprobeTarget(symbol="f", offset=16), True, id="all of it"
        ),
        pytest.param(
            function("tcp_*", "kprobe-multi"), kprobe("kprobe-multi", "tcp_v4"), False,
            id="a pattern within a pattern",
        ),
    ],
)  # fmt: skip
def test_what_a_granted_target_covers(granted: GrantedTarget, target: WantedTarget, covers: bool) -> None:
    assert granted.covers(target) is covers


_part = st.text(st.characters(codec="utf-8", exclude_characters="/"), max_size=5)


@given(
    st.lists(st.sampled_from(["*", "?*", "[!a]*", "**"]), min_size=1, max_size=4), st.lists(_part, max_size=6)
)
def test_a_glob_never_crosses_a_slash(globs: list[str], parts: list[str]) -> None:
    granted = cgroup("/" + "/".join(globs))
    if granted.covers(CgroupPlace(path="/" + "/".join(parts))):
        assert len([part for part in parts if part]) == len(globs)


@pytest.mark.parametrize(
    ("given", "program", "says"),
    [
        pytest.param({"sources": frozenset({"fd"})}, ObjectFile(fd=3), "that come from object", id="objects"),
        pytest.param(
            {"sources": frozenset({"object"})}, SourceFile(fd=3), "that come from source", id="sources"
        ),
        pytest.param(
            {"sources": frozenset({"object"})}, ProgramFd(fd=3), "that come from fd", id="descriptors"
        ),
        pytest.param({"sources": frozenset({"fd"})}, PASS, "that come from builtin", id="built-ins"),
        pytest.param(
            {"program_types": frozenset({ProgramType.CGROUP_SKB})}, PASS, "programs of type xdp", id="a type"
        ),
        pytest.param({"policies": frozenset({Policy.YIELD})}, PASS, "the policy alert", id="a policy"),
    ],
)
def test_what_a_grant_does_not_allow_is_named(
    given: dict[str, Any], program: WantedProgram, says: str
) -> None:
    error, action = refusal(lambda: put(access(grant(**given)), program=program))
    assert (type(error), action) == (NotAuthorized, Action.ATTACH)
    assert str(error).startswith(
        "uid 812 in tw-agent.service may not put that on xdp:eth0: the grant of user:812 "
        "(/etc/bpflinkd/grants.d/tw.toml:3) does not allow "
    )
    assert str(error).endswith(says)


def test_a_policy_that_stays_is_not_asked_for() -> None:
    assert put(access(grant(policies=frozenset({Policy.YIELD}))), policy=None) is not None


@pytest.mark.parametrize(
    ("program", "word"),
    [
        (ObjectFile(fd=3), "object"),
        (ObjectImage(data=b"", sha256=""), "object"),
        (SourceFile(fd=3), "source"),
        (SourceText(data=b"", sha256=""), "source"),
        (ProgramFd(fd=3), "fd"),
        (PASS, "builtin"),
        (PinnedProgram(path="/x"), "pin"),
        (ProgramById(id=ProgId(1)), "id"),
    ],
)
def test_sources_have_the_words_of_grants(program: WantedProgram, word: str) -> None:
    assert grants.source_word(program) == word
    assert (word in grants.SOURCES) == (word not in {"pin", "id"})


@pytest.mark.parametrize("kind", KPROBES)
def test_kprobes_take_the_word_for_kernel_memory(kind: str) -> None:
    target, granted = kprobe(kind, "tcp_*"), function("tcp_*", kind)
    error, _ = refusal(lambda: put(access(grant(granted)), target=target))
    assert "kernel-memory = true" in str(error)
    given = put(access(grant(granted, kernel_memory=True)), target=target)
    assert given is not None
    assert given.kernel_memory


def test_of_several_grants_the_one_that_gives_most_counts() -> None:
    """The user's, the group's and the unit's: which file comes first must not matter."""
    several = [
        grant(max_memory=1),
        grant(holder=AGENT, max_memory=5, kernel_memory=True),
        grant(holder=Group(gid=990), max_memory=9),
        grant(holder=Group(gid=990), max_memory=99, kernel_memory=True, policies=frozenset({Policy.YIELD})),
    ]
    for order in (several, several[::-1]):
        assert put(access(*order)) == Confinement(kernel_memory=True, maps=32, memory=5)
        assert put(access(*order), SHELL) == Confinement(kernel_memory=False, maps=32, memory=9)


# A cgroup whose attach type the program has yet to tell.


def test_before_the_attach_type_is_known_no_more_is_given_than_at_any() -> None:
    """Else a program would be loaded as the grant for egress says, and attached by the one for ingress."""
    rules = access(
        grant(cgroup("/a", EGRESS), kernel_memory=True, max_memory=1 << 30, max_maps=1),
        grant(cgroup("/a", INGRESS), max_memory=1 << 20, max_maps=9),
    )
    least = put(rules, target=CgroupPlace(path="/a"))
    assert least == Confinement(kernel_memory=False, maps=1, memory=1 << 20)
    for attach_type in (EGRESS, INGRESS):
        known = put(rules, target=CgroupTarget(path="/a", attach_type=attach_type))
        assert known is not None
        assert (known.kernel_memory, known.maps, known.memory) >= (False, 1, 1 << 20)
    assert refusal(lambda: put(rules, target=CgroupTarget(path="/a", attach_type=CONNECT4)))


def test_a_grant_for_every_attach_type_gives_the_same_before_and_after() -> None:
    rules = access(grant(cgroup("/a"), kernel_memory=True), grant(cgroup("/a", EGRESS)))
    places: list[WantedTarget] = [CgroupPlace(path="/a"), CgroupTarget(path="/a", attach_type=EGRESS)]
    assert [put(rules, target=place) for place in places] == [grant(kernel_memory=True).confinement] * 2


def test_a_grant_whose_types_fit_at_no_attach_type_is_refused_in_words() -> None:
    rules = access(grant(cgroup("/a", EGRESS), program_types=frozenset({ProgramType.CGROUP_SOCK})))
    error, _ = refusal(lambda: put(rules, target=CgroupPlace(path="/a")))
    assert str(error).endswith("does not allow it at any attach type")


# Limits, and handing over.


def test_links_are_limited_by_the_grant_that_allows_most() -> None:
    owned = [record(User(uid=812), XdpTarget(interface=f"eth{at}")) for at in range(2)]
    rules = access(grant(max_links=2), grant(holder=Group(gid=990), max_links=3))
    rules.limit_links(TW, User(uid=812), ETH0, owned)
    error, _ = refusal(lambda: rules.limit_links(TW, User(uid=812), ETH0, [*owned, owned[0]]))
    assert isinstance(error, LimitExceeded)
    assert str(error) == (
        "uid 812 has the 3 links that the grant of group:990 (/etc/bpflinkd/grants.d/tw.toml:3) allows, "
        "so none can be made on xdp:eth0; detach one, or have max-links raised"
    )


def test_links_elsewhere_do_not_count() -> None:
    owned = [record(User(uid=812), CgroupTarget(path="/a", attach_type=EGRESS))] * 9
    access(grant(max_links=1)).limit_links(TW, User(uid=812), ETH0, owned)


def test_without_a_grant_there_is_none_to_count_by() -> None:
    error, _ = refusal(lambda: access().limit_links(TW, AGENT, ETH0, []))
    assert isinstance(error, NotAuthorized)
    assert "uid 812 in tw-agent.service has no grant for xdp:eth0" in str(error)


@pytest.mark.parametrize(
    ("receiver", "owner", "may"),
    [
        pytest.param(ROOT, User(uid=0), True, id="root"),
        pytest.param(Caller(uid=812), User(uid=812), True, id="a user with a grant"),
        pytest.param(
            Caller(uid=7, gids=frozenset({990})), User(uid=7), True, id="a member of a group with one"
        ),
        pytest.param(Caller(uid=7), User(uid=7), False, id="a user without"),
        pytest.param(
            Caller(uid=0, unit=OTHERS.name), OTHERS, False, id="a unit without, though it be root's"
        ),
    ],
)
def test_who_gets_a_link_has_a_grant_for_it(receiver: Caller, owner: Owner, may: bool) -> None:
    rules = access(grant(), grant(holder=Group(gid=990)))
    if may:
        rules.receive(receiver, owner, "edge", ETH0)
        return
    error, action = refusal(lambda: rules.receive(receiver, owner, "edge", ETH0))
    assert (type(error), action) == (NotAuthorized, None)
    assert re.match(r"(uid 7|unit other.service) has no grant for xdp:eth0, .* link 'edge'", str(error))


# Everybody else, whatever is asked for.

_names = st.text(max_size=8)
_attach_types = st.sampled_from(attach_types.CGROUP_ATTACH_TYPES)
_targets: st.SearchStrategy[Target] = st.one_of(
    st.builds(XdpTarget, interface=_names, mode=st.sampled_from(XdpMode)),
    st.builds(CgroupTarget, path=_names, attach_type=_attach_types),
    st.builds(KprobeTarget, symbol=_names, offset=st.integers(), at_return=st.booleans()),
    st.builds(KprobeMultiTarget, pattern=_names, at_return=st.booleans()),
)
_wanted_targets: st.SearchStrategy[WantedTarget] = st.one_of(_targets, st.builds(CgroupPlace, path=_names))
_programs: st.SearchStrategy[WantedProgram] = st.one_of(
    st.builds(ObjectFile, fd=st.integers()),
    st.builds(ObjectImage, data=st.binary(max_size=2), sha256=_names),
    st.builds(SourceFile, fd=st.integers()),
    st.builds(SourceText, data=st.binary(max_size=2), sha256=_names),
    st.builds(ProgramFd, fd=st.integers()),
    st.builds(PinnedProgram, path=_names),
    st.builds(ProgramById, id=st.integers().map(ProgId)),
    st.builds(Builtin, name=_names),
)
_ids = st.integers(1, 20)
_units = st.sampled_from(["", "a.service", "b.service", "a.servic"])
_callers = st.builds(Caller, uid=_ids, gids=st.frozensets(_ids), unit=_units, name=_names)
_holders: st.SearchStrategy[grants.Holder] = st.one_of(
    st.builds(User, uid=st.integers(0, 20)), st.builds(Group, gid=_ids), st.builds(Unit, name=_units)
)
_owners: st.SearchStrategy[Owner] = st.one_of(
    st.builds(User, uid=st.integers(0, 20)), st.builds(Unit, name=_units)
)
_everything = (
    *(GrantedTarget(kind=kind, place="*") for kind in ("xdp", "cgroup", *KPROBES)),
    cgroup("/*"), cgroup("/*/*"),
)  # fmt: skip
_METHODS: dict[str, Callable[[Access, Caller, "Asked"], object]] = {
    "administer": lambda rules, caller, asked: rules.administer(caller, asked.action, "reload"),
    "change": lambda rules, caller, asked: rules.change(caller, asked.owned, "detach it", force=asked.force),
    "see_file": lambda rules, caller, asked: rules.see_file(caller, asked.owned),
    "put": lambda rules, caller, asked: rules.put(
        caller, asked.target, asked.program, asked.policy, action=asked.action
    ),
    "limit_links": lambda rules, caller, asked: rules.limit_links(
        caller, asked.owned.owner, asked.target, [asked.owned]
    ),
    "own": lambda rules, caller, asked: rules.own(caller, asked.owned.owner),
    "receive": lambda rules, caller, asked: rules.receive(caller, asked.owned.owner, "edge", asked.target),
}


class Asked(NamedTuple):
    """All that a caller can ask with."""

    owned: Record
    target: WantedTarget
    program: WantedProgram
    policy: Policy | None
    action: Action
    force: bool


_asked = st.builds(
    Asked,
    st.builds(record, _owners, _targets),
    _wanted_targets,
    _programs,
    st.sampled_from([None, *Policy]),
    st.sampled_from(Action),
    st.booleans(),
)


def test_every_method_that_may_refuse_is_asked() -> None:
    assert set(_METHODS) == {name for name in vars(Access) if not name.startswith("_")}


@pytest.mark.parametrize("method", _METHODS)
@given(_callers, st.lists(st.tuples(_holders, st.booleans()), max_size=5), _asked)
def test_who_owns_nothing_and_was_granted_nothing_is_refused_everything(
    method: str, caller: Caller, others: list[tuple[grants.Holder, bool]], asked: Asked
) -> None:
    assume(not caller.is_one_of(asked.owned.owner))
    rules = access(
        *(
            grant(*_everything, holder=holder, kernel_memory=kernel_memory, policies=frozenset(Policy))
            for holder, kernel_memory in others
            if not caller.is_one_of(holder)
        )
    )
    error, _ = refusal(lambda: _METHODS[method](rules, caller, asked))
    assert isinstance(error, NotAuthorized | NotOwner)
    assert f"uid {caller.uid}" in str(error) or method == "receive"

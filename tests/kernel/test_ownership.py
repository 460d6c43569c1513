"""Who may do what, proved by who the caller is: real users and units, a real bus, every method there is."""

import os
import pwd
import struct
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from gi.repository import GLib

from bpflinkd.kernel import libbpf
from bpflinkd.kernel.cgroup import CgroupTree
from tests.lab import World
from tests.lab.as_user import AsUser, memfd
from tests.lab.compiled import program
from tests.lab.daemon import Refused, Source, builtin, by_fd
from tests.lab.world import remove_cgroup, until

# dbus-daemon lets in only users that /etc/passwd knows.
OWNER, GRANTED, STRANGER, IN_UNIT = (pwd.getpwnam(name).pw_uid for name in ("games", "man", "nobody", "mail"))
UNIT, OTHER_UNIT = "tw-agent.service", "other-agent.service"
MANAGER, LINK = "org.bpflinkd1.Manager", "org.bpflinkd1.Link"
PROPERTIES, OBJECT_MANAGER = "org.freedesktop.DBus.Properties", "org.freedesktop.DBus.ObjectManager"

GRANTS = f"""
[[grant]]
user = {OWNER}
targets = ["xdp:u0", "xdp:g*", "cgroup:/*"]

[[grant]]
user = {GRANTED}
targets = ["xdp:g*", "xdp:u*"]

[[grant]]
unit = "{UNIT}"
targets = ["xdp:t0"]
"""


def words(**values: Any) -> dict[str, GLib.Variant]:
    kinds = {bool: "b", int: "u", str: "s"}
    return {key: GLib.Variant(kinds[type(value)], value) for key, value in values.items()}


@pytest.fixture(scope="module")
def lab() -> Iterator["Lab"]:
    with World() as world:
        yield Lab(world)


class Lab:
    """A daemon with three links, of root, a user and a unit, and one caller of each sort."""

    def __init__(self, world: World) -> None:
        self.world = world
        for end in "rutg":
            world.veth(f"{end}0", f"{end}1")
        place = world.dir / "etc" / "grants.d"
        place.mkdir(parents=True)
        (place / "test.toml").write_text(GRANTS)
        self.daemon = world.daemon("--sweep-interval", "3600")
        root = Path(tempfile.mkdtemp(prefix="bpflinkdlab", suffix=".slice", dir=CgroupTree().root))
        world.at_end(lambda: remove_cgroup(root))
        for unit in (UNIT, OTHER_UNIT):
            (root / unit).mkdir()
        self.callers = {
            "root": AsUser(world, 0),
            "owner": AsUser(world, OWNER),
            "granted": AsUser(world, GRANTED),
            "stranger": AsUser(world, STRANGER),
            "unit": AsUser(world, IN_UNIT, cgroup=f"/{root.name}/{UNIT}"),
            "other unit": AsUser(world, IN_UNIT, cgroup=f"/{root.name}/{OTHER_UNIT}"),
        }
        self.links = {"of root": ("r0", words(uid=0)), "of user": ("u0", words(uid=OWNER))}
        self.links["of unit"] = ("t0", words(unit=UNIT))
        for link in self.links:
            self.restore(link)

    def restore(self, link: str) -> None:
        """The link as it is before each call."""
        interface, owner = self.links[link]
        name = interface
        found = self.daemon.links().get(name)
        if found is None:
            held = {"owner": GLib.Variant("a{sv}", owner), "lifetime": GLib.Variant("s", "owner")}
            held["grace"] = GLib.Variant("t", 3_600_000_000)
            self.daemon.attach(name, {"xdp": interface}, builtin(), **held)
        elif found["Owner"] != owner_text(owner):
            self.daemon.transfer(name, force=True, **owner)


def owner_text(owner: dict[str, GLib.Variant]) -> str:
    ((kind, value),) = owner.items()
    return f"{'user' if kind == 'uid' else kind}:{value.unpack()}"


# One rule a method. What the contract has and is not here fails the first test.


@dataclass(frozen=True)
class Rule:
    """How a method is called about a link, and which callers may: `mine` those who own the link."""

    call: Callable[[Lab, AsUser, str], object]
    everybody: bool = False
    mine: bool = False
    error: str = "NotOwner"
    """What others get."""
    root_error: str = ""
    """What root gets without force, for a link that is not root's."""


def call(method: str, signature: str = "()", *arguments: Any, interface: str = MANAGER) -> Any:
    def made(_lab: Lab, caller: AsUser, name: str) -> None:
        given = tuple(name if argument is NAME else argument for argument in arguments)
        caller.call(method, signature, given, interface=interface)

    return made


NAME = object()


def attach(_lab: Lab, caller: AsUser, name: str) -> None:
    made = f"{caller.name.replace(':', '').replace('.', '-')}-{name}"
    caller.attach(made, {"xdp": "g0"}, builtin())
    caller.detach(made)


def events(_lab: Lab, caller: AsUser, name: str) -> None:
    caller.call("Events", "(a{sv})", ({"links": GLib.Variant("as", [name])},))


def rollback(_lab: Lab, caller: AsUser, name: str) -> None:
    """Who may is told that there is nothing to go back to, or goes."""
    try:
        caller.call("Rollback", "(st)", (name, 0))
    except Refused as refusal:
        if refusal.name != "NoSuchGeneration":
            raise


def confirm(_lab: Lab, caller: AsUser, name: str) -> None:
    """Who may is told that nothing waits for it."""
    with pytest.raises(Refused) as refusal:
        caller.call("Confirm", "(s)", (name,))
    if refusal.value.name != "NotInTrial":
        raise refusal.value


def replace_many(_lab: Lab, caller: AsUser, name: str) -> None:
    caller.call("ReplaceMany", "(a(sa{sv})a{sv})", ([(name, words(builtin="pass"))], {}))


def check(_lab: Lab, caller: AsUser, _name: str) -> None:
    caller.call("Check", "(a{sv}a{sv}a{sv})", (words(xdp="g0"), words(builtin="pass"), {}))


def compare(_lab: Lab, caller: AsUser, name: str) -> None:
    packets = memfd(struct.pack("<I", 60) + bytes(60))
    try:
        caller.call("Compare", "(sa{sv}ha{sv})", (name, words(builtin="pass"), 0, {}), fds=[packets])
    finally:
        os.close(packets)


RULES = {
    (MANAGER, "Attach"): Rule(attach, error="NotAuthorized"),
    (MANAGER, "Check"): Rule(check, error="NotAuthorized"),
    (MANAGER, "Compare"): Rule(compare, mine=True, root_error="NotOwner"),
    (MANAGER, "Replace"): Rule(
        call("Replace", "(sa{sv}a{sv})", NAME, words(builtin="pass"), {}), mine=True, root_error="NotOwner"
    ),
    (MANAGER, "ReplaceMany"): Rule(replace_many, mine=True, root_error="NotOwner"),
    (MANAGER, "Rollback"): Rule(rollback, mine=True, root_error="NotOwner"),
    (MANAGER, "Confirm"): Rule(confirm, mine=True, root_error="NotOwner"),
    (MANAGER, "History"): Rule(call("History", "(s)", NAME), everybody=True),
    (MANAGER, "Statistics"): Rule(call("Statistics", "(a{sv})", {}), everybody=True),
    (MANAGER, "Detach"): Rule(call("Detach", "(sa{sv})", NAME, {}), mine=True, root_error="NotOwner"),
    (MANAGER, "Transfer"): Rule(
        call("Transfer", "(sa{sv})", NAME, words(uid=0)), mine=True, root_error="NotOwner"
    ),
    (MANAGER, "Claim"): Rule(call("Claim", "(s)", NAME), mine=True, root_error="NotOwner"),
    (MANAGER, "Adopt"): Rule(
        call("Adopt", "(usa{sv})", 2**31, "new", {}), error="NotAuthorized", root_error="BadOption"
    ),
    (MANAGER, "Reload"): Rule(call("Reload"), error="NotAuthorized"),
    (MANAGER, "ProgramFile"): Rule(
        call("ProgramFile", "(s)", NAME), mine=True, error="NotAuthorized", root_error="BadProgram"
    ),
    (MANAGER, "ListForeign"): Rule(call("ListForeign"), error="NotAuthorized"),
    (MANAGER, "Events"): Rule(events, mine=True, error="NotAuthorized"),
    (MANAGER, "Doctor"): Rule(call("Doctor"), error="NotAuthorized"),
    (MANAGER, "List"): Rule(call("List"), everybody=True),
    (MANAGER, "Features"): Rule(call("Features"), everybody=True),
    (OBJECT_MANAGER, "GetManagedObjects"): Rule(
        call("GetManagedObjects", interface=OBJECT_MANAGER), everybody=True
    ),
}
OWNERS = {"of root": "root", "of user": "owner", "of unit": "unit"}
CALLERS = ("root", "owner", "granted", "stranger", "unit", "other unit")


def methods() -> set[tuple[str, str]]:
    text = resources.files("bpflinkd.dbus").joinpath("interface.xml").read_text()
    tree = ET.fromstring(text)
    return {(i.get("name", ""), m.get("name", "")) for i in tree.iter("interface") for m in i.iter("method")}


def test_every_method_of_the_contract_has_a_rule() -> None:
    assert methods() == set(RULES)


def expected(rule: Rule, caller: str, link: str, method: str) -> str:
    """The error's name, empty where the call is allowed."""
    owns = OWNERS[link] == caller
    if rule.everybody:
        return ""
    if method == "ProgramFile" and (owns or caller == "root"):
        return "BadProgram"  # a built-in has no file
    if method in ("Attach", "Check"):
        return "" if caller in ("root", "owner", "granted") else rule.error
    if caller == "root":
        return "" if owns and rule.mine else rule.root_error
    if method == "Transfer" and owns:
        return ""
    return "" if owns and rule.mine else rule.error


def outcome(rule: Rule, lab: Lab, caller: AsUser, name: str) -> tuple[str, str]:
    """The error's name and message, empty where there was none."""
    try:
        rule.call(lab, caller, name)
    except Refused as refused:
        return refused.name, refused.message
    return "", ""


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("method", [name for _, name in RULES])
@pytest.mark.parametrize("link", list(OWNERS))
def test_who_may_do_what(lab: Lab, caller: str, method: str, link: str) -> None:
    rule = next(rule for (_, name), rule in RULES.items() if name == method)
    name = lab.links[link][0]
    lab.restore(link)
    before = lab.daemon.link(name)
    wanted = expected(rule, caller, link, method)
    error, message = outcome(rule, lab, lab.callers[caller], name)
    while error == "LimitExceeded":
        time.sleep(0.2)  # the whole matrix is more than a user may ask in this time
        error, message = outcome(rule, lab, lab.callers[caller], name)
    assert error == wanted
    if error == "NotOwner":
        assert before["Owner"].replace("user:", "uid ").replace("unit:", "unit ") in message
    if wanted:
        assert lab.daemon.link(name) == before, "a refusal changes nothing"


def test_nobody_unknown_gets_an_answer(lab: Lab) -> None:
    """A connection that is gone before the bus is asked who it was: its call is not made."""
    lab.restore("of root")
    before = lab.daemon.link("r0")
    for _ in range(20):
        gone = AsUser(lab.world, 0)
        to = ("org.bpflinkd1", "/org/bpflinkd1", MANAGER, "Detach")
        gone.flood(to, GLib.Variant("(sa{sv})", ("none-such", {})), 1)
        gone.end()
    assert lab.daemon.link("r0") == before


def tells(lab: Lab, words: str) -> None:
    """The journal says so, in the main loop's next idle moment."""
    until(lambda: words in lab.daemon.said(), words)


# Overriding, and handing over.


def test_root_overrides_only_with_force_and_the_journal_tells(lab: Lab) -> None:
    lab.restore("of user")
    with pytest.raises(Refused, match=f"owned by uid {OWNER}.*--force"):
        lab.daemon.replace("u0", builtin())
    generation = lab.daemon.replace("u0", builtin(), force=True)
    assert lab.daemon.link("u0")["Generation"] == generation
    tells(lab, "replaced by uid 0, ")
    tells(lab, f"although user:{OWNER} owns it")


def test_force_is_worth_nothing_to_others(lab: Lab) -> None:
    lab.restore("of user")
    before = lab.daemon.link("u0")
    acts: tuple[Callable[[AsUser], object], ...] = (
        lambda asker: asker.replace("u0", builtin(), **words(force=True)),
        lambda asker: asker.detach("u0", **words(force=True)),
        lambda asker: asker.call("Transfer", "(sa{sv})", ("u0", words(uid=STRANGER, force=True))),
    )
    for caller in ("granted", "stranger", "unit", "other unit"):
        for act in acts:
            with pytest.raises(Refused) as refused:
                act(lab.callers[caller])
            assert refused.value.name == "NotOwner"
    assert lab.daemon.link("u0") == before


def test_many_are_swapped_by_whom_all_belong_to(lab: Lab) -> None:
    """Objects of a user who is not root are loaded apart, all of them before the first swap."""
    lab.restore("of user")
    owner, image = lab.callers["owner"], memfd(program("confined").read_bytes())
    to = ("org.bpflinkd1", "/org/bpflinkd1", MANAGER, "ReplaceMany")
    plain = {"object": GLib.Variant("h", 0), "name": GLib.Variant("s", "plain")}

    def swap(*swaps: tuple[str, dict[str, GLib.Variant]]) -> list[tuple[str, int]]:
        body = GLib.Variant("(a(sa{sv})a{sv})", (list(swaps), {}))
        (found,) = owner.exchange(to, body, [image])
        return [tuple(each) for each in found]

    owner.attach("mine", {"xdp": "g0"}, builtin())
    try:
        before = lab.daemon.links()
        for other, error in ((("r0", plain), "NotOwner"), (("u0", words(pin="/nix")), "NotAuthorized")):
            with pytest.raises(Refused, match=f"'{other[0]}'.*no link was changed") as refused:
                swap(("mine", plain), other)
            assert refused.value.name == error
        assert lab.daemon.links() == before
        generation = before["u0"]["Generation"] + 1
        assert swap(("mine", plain), ("u0", plain)) == [("mine", 2), ("u0", generation)]
        now = lab.daemon.links()
        assert {now[name]["Program"]["name"] for name in ("mine", "u0")} == {"plain"}
        assert {now[name]["By"]["uid"] for name in ("mine", "u0")} == {OWNER}
    finally:
        owner.detach("mine")
        os.close(image)


def test_a_link_is_handed_over_to_those_who_may_have_it(lab: Lab) -> None:
    lab.restore("of user")
    owner, granted = lab.callers["owner"], lab.callers["granted"]
    with pytest.raises(Refused, match=f"uid {STRANGER} has no grant for xdp:u0"):
        owner.call("Transfer", "(sa{sv})", ("u0", words(uid=STRANGER)))
    with pytest.raises(Refused, match="no grant"):
        owner.call("Transfer", "(sa{sv})", ("u0", words(uid=STRANGER, force=True)))
    owner.call("Transfer", "(sa{sv})", ("u0", words(uid=GRANTED)))
    assert lab.daemon.link("u0")["Owner"] == f"user:{GRANTED}"
    with pytest.raises(Refused) as refused:
        owner.replace("u0", builtin())
    assert refused.value.name == "NotOwner"
    granted.replace("u0", builtin())
    with pytest.raises(Refused, match="may not transfer it"):
        lab.daemon.transfer("u0", uid=GLib.Variant("u", STRANGER))
    lab.daemon.transfer("u0", uid=GLib.Variant("u", STRANGER), force=True)
    tells(lab, "transferred by uid 0")
    with pytest.raises(Refused, match="has no grant"):
        lab.callers["stranger"].replace("u0", builtin())


def test_who_made_a_generation_is_told_and_kept(lab: Lab) -> None:
    lab.restore("of unit")
    agent = lab.callers["unit"]
    agent.replace("t0", builtin())
    by = lab.daemon.link("t0")["By"]
    assert (by["uid"], by["unit"], by["pid"]) == (IN_UNIT, UNIT, agent.process.pid)
    assert by["exe"].startswith("/usr/bin/python3")
    tells(lab, f"by uid {IN_UNIT}, {UNIT}, pid {agent.process.pid}, /usr/bin/python3")
    lab.daemon.restart()
    lab.world.ip("link", "show", "t0")
    assert lab.daemon.link("t0")["By"] == by


def test_a_unit_is_the_unit_and_not_its_user(lab: Lab) -> None:
    lab.restore("of unit")
    outside = AsUser(lab.world, IN_UNIT)
    with pytest.raises(Refused, match=f"owned by unit {UNIT}"):
        outside.replace("t0", builtin())


# Grants.


def test_a_grant_covers_what_it_names_and_nothing_else(lab: Lab) -> None:
    asker = lab.callers["granted"]
    asker.attach("mine", {"xdp": "g0"}, builtin())
    assert lab.daemon.link("mine")["Owner"] == f"user:{GRANTED}"
    refused_targets = ({"xdp": "r0"}, {"xdp": "lo"}, {"cgroup": "/", "attach_type": "egress"})
    for target in refused_targets:
        with pytest.raises(Refused) as refused:
            asker.attach("other", target, builtin())
        assert refused.value.name == "NotAuthorized"
    for options in (words(policy="restore"), words(policy="yield")):
        with pytest.raises(Refused, match="does not allow the policy"):
            asker.attach("other", {"xdp": "g1"}, builtin(), **options)
    foreign_owner = {"owner": GLib.Variant("a{sv}", words(uid=OWNER))}
    with pytest.raises(Refused, match="may not make uid"):
        asker.attach("other", {"xdp": "g1"}, builtin(), **foreign_owner)
    with pytest.raises(Refused, match="may not make unit"):
        asker.attach("other", {"xdp": "g1"}, builtin(), owner=GLib.Variant("a{sv}", words(unit=UNIT)))
    asker.detach("mine")
    assert not {"mine", "other"} & set(lab.daemon.links())


def test_pins_and_ids_are_roots(lab: Lab) -> None:
    asker = lab.callers["owner"]
    for source in (Source(pin="/sys/fs/bpf/x"), Source(id=1)):
        with pytest.raises(Refused, match="rights that only root has"):
            asker.attach("other", {"xdp": "g0"}, source)


def test_an_object_of_a_caller_is_loaded_confined_and_swapped(lab: Lab) -> None:
    asker = lab.callers["owner"]
    image = memfd(program("count").read_bytes())
    asker.attach("mine", {"xdp": "g0"}, Sealed(image, "count_old"))
    link = lab.daemon.link("mine")
    assert (link["Program"]["name"], link["State"], link["Maps"]) == ("count_old", "active", ["counters"])
    assert asker.replace("mine", Sealed(image, "count_new")) == 2
    with pytest.raises(Refused) as refused:
        asker.replace("mine", Sealed(image, "egress_count"))
    assert refused.value.name == "WrongProgramType"
    lab.daemon.restart()
    assert (lab.daemon.state("mine"), lab.daemon.link("mine")["Generation"]) == ("active", 2)
    asker.detach("mine")


class Sealed(Source):
    """An object in a memfd, with the name of the program."""

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(fd=fd)
        self.wanted = {"object": GLib.Variant("h", 0), "name": GLib.Variant("s", name)}
        self.file = fd

    def __enter__(self) -> tuple[dict[str, GLib.Variant], list[int]]:
        return self.wanted, [self.file]


def test_a_grant_that_goes_ends_no_link_but_gives_no_more(lab: Lab) -> None:
    asker = lab.callers["granted"]
    asker.attach("mine", {"xdp": "g0"}, builtin())
    file = lab.world.dir / "etc" / "grants.d" / "test.toml"
    try:
        file.write_text("# nobody\n")
        lab.daemon.call("Reload")
        assert lab.daemon.state("mine") == "active"
        with pytest.raises(Refused, match="has no grant"):
            asker.replace("mine", builtin())
        asker.detach("mine")
    finally:
        file.write_text(GRANTS)
        lab.daemon.call("Reload")


def test_a_grant_that_is_refused_is_not_in_force(lab: Lab) -> None:
    file = lab.world.dir / "etc" / "grants.d" / "test.toml"
    try:
        file.write_text(GRANTS + "\n[[grant]]\nuser = 5\ntargets = 7\n")
        _, refused = lab.daemon.call("Reload")
        assert any(str(file) in row[2] for row in refused)
        with pytest.raises(Refused, match="has no grant"):
            lab.callers["granted"].attach("mine", {"xdp": "g0"}, builtin())
    finally:
        file.write_text(GRANTS)
        lab.daemon.call("Reload")


def test_no_more_links_than_granted(lab: Lab) -> None:
    lab.restore("of user")
    asker = lab.callers["granted"]
    made: list[str] = []
    try:
        for number in range(8):
            lab.world.ip("link", "add", f"g{number}x", "type", "veth", "peer", f"gp{number}")
            asker.attach(f"mine-{number}", {"xdp": f"g{number}x"}, builtin())
            made.append(f"mine-{number}")
        with pytest.raises(Refused, match="has the 8 links that the grant of") as refused:
            asker.attach("mine-8", {"xdp": "g0"}, builtin())
        assert refused.value.name == "LimitExceeded"
    finally:
        for name in made:
            asker.detach(name)


def test_a_program_of_ones_own_by_descriptor(lab: Lab) -> None:
    """Its owner loaded it with rights of its own; a map or a pipe is none."""
    asker = lab.callers["owner"]
    ours = lab.daemon.link("r0")["Program"]["id"]
    fd = libbpf.prog_fd_by_id(ours)
    reading, writing = os.pipe()
    try:
        asker.attach("mine", {"xdp": "g0"}, by_fd(fd))
        assert lab.daemon.link("mine")["Program"]["id"] == ours
        with pytest.raises(Refused, match="not a BPF program"):
            asker.replace("mine", by_fd(reading))
    finally:
        for each in (fd, reading, writing):
            os.close(each)
        with suppress(Refused):
            asker.detach("mine")


def test_names_of_files_are_for_files(lab: Lab) -> None:
    """Or whoever may attach anywhere could keep a declared link from being made."""
    file = lab.world.dir / "etc" / "links.d" / "names.toml"
    file.parent.mkdir(exist_ok=True)
    text = '[[link]]\nname = "{}"\ntarget = "{}"\nprogram = {{ builtin = "pass" }}\n'
    file.write_text(text.format("declared", "xdp:later0") + text.format("guard", "xdp:later*"))
    lab.daemon.call("Reload")
    asker = lab.callers["granted"]
    for name in ("guard@later1", "guard@anything", "guard"):
        with pytest.raises(Refused, match=f"belongs to what {file}:[0-9]+ declares") as refused:
            asker.attach(name, {"xdp": "g0"}, builtin())
        assert refused.value.name == "NameTaken"
    asker.attach("guarded", {"xdp": "g0"}, builtin())
    asker.detach("guarded")
    file.unlink()
    lab.daemon.call("Reload")
    assert "declared" not in lab.daemon.links()


# A link that lives with a connection.


def owner_attach(lab: Lab, asker: AsUser, *, grace: float = 0.2, **more: GLib.Variant) -> None:
    options = {"lifetime": GLib.Variant("s", "owner"), "grace": GLib.Variant("t", int(grace * 1e6)), **more}
    asker.attach("brief", {"xdp": "g0"}, builtin(), **options)


def test_it_ends_with_the_client_that_made_it(lab: Lab) -> None:
    asker = AsUser(lab.world, OWNER)
    owner_attach(lab, asker)
    hold = lab.daemon.link("brief")["Hold"]
    assert (hold["holder"], hold["grace"]) == (asker.name, 200_000)
    asker.process.kill()
    until(lambda: "until" in lab.daemon.links().get("brief", {}).get("Hold", {"until": 0}), "the grace time")
    until(lambda: "brief" not in lab.daemon.links(), "the end")
    tells(lab, "the connection that held it ended")
    assert "xdp" not in lab.world.ip("-o", "link", "show", "g0").split("mtu")[0]


def test_a_fallback_takes_over_instead(lab: Lab) -> None:
    asker = AsUser(lab.world, OWNER)
    image = memfd(program("count").read_bytes())
    options = {"lifetime": GLib.Variant("s", "owner"), "grace": GLib.Variant("t", 100_000)}
    options["fallback"] = GLib.Variant("a{sv}", words(builtin="pass"))
    asker.attach("brief", {"xdp": "g0"}, Sealed(image, "count_new"), **options)
    asker.process.kill()
    until(lambda: lab.daemon.link("brief")["Generation"] == 2, "the fallback")
    link = lab.daemon.link("brief")
    assert (link["Source"], link["State"], link["Hold"]["holder"]) == (("builtin", "pass"), "active", "")
    assert link["Message"] == "the connection that held it ended"
    again = AsUser(lab.world, OWNER)
    again.call("Claim", "(s)", ("brief",))
    assert again.replace("brief", Sealed(image, "count_old")) == 3
    again.detach("brief")


def test_a_restarted_application_claims_it_back(lab: Lab) -> None:
    first = AsUser(lab.world, OWNER)
    owner_attach(lab, first, grace=30)
    first.process.kill()
    until(lambda: "until" in lab.daemon.link("brief")["Hold"], "the grace time")
    for caller in ("granted", "stranger"):
        with pytest.raises(Refused) as refused:
            lab.callers[caller].call("Claim", "(s)", ("brief",))
        assert refused.value.name == "NotOwner"
    second = AsUser(lab.world, OWNER)
    second.call("Claim", "(s)", ("brief",))
    hold = lab.daemon.link("brief")["Hold"]
    assert hold["holder"] == second.name
    assert "until" not in hold
    second.detach("brief")


def test_it_outlives_the_daemon_and_ends_where_its_holder_went_meanwhile(lab: Lab) -> None:
    asker = AsUser(lab.world, OWNER)
    owner_attach(lab, asker)
    lab.daemon.restart()
    assert "until" not in lab.daemon.link("brief")["Hold"]
    lab.daemon.kill()
    asker.process.kill()
    asker.process.wait()
    lab.daemon.start()
    until(lambda: "brief" not in lab.daemon.links(), "the end")


def test_only_links_of_that_lifetime_can_be_claimed(lab: Lab) -> None:
    asker = lab.callers["owner"]
    asker.attach("mine", {"xdp": "g0"}, builtin())
    with pytest.raises(Refused, match="nothing to claim"):
        asker.call("Claim", "(s)", ("mine",))
    asker.detach("mine")


def test_a_daemon_of_files_is_not_bound_by_owners(lab: Lab) -> None:
    """What files declare belongs to whom they say, and a reload changes it without force."""
    place = lab.world.dir / "etc" / "links.d"
    place.mkdir(exist_ok=True)
    file = place / "declared.toml"
    text = (
        f'[[link]]\nname = "declared"\ntarget = "xdp:g0"\nowner = {OWNER}\nprogram = {{ builtin = "pass" }}\n'
    )
    file.write_text(text)
    lab.daemon.call("Reload")
    assert lab.daemon.link("declared")["Owner"] == f"user:{OWNER}"
    lab.callers["owner"].replace("declared", builtin())
    with pytest.raises(Refused) as refused:
        lab.daemon.detach("declared")
    assert refused.value.name == "NotOwner"
    lab.daemon.transfer("declared", uid=GLib.Variant("u", 0), force=True)
    lab.daemon.call("Reload")
    assert lab.daemon.link("declared")["Owner"] == f"user:{OWNER}"
    file.unlink()
    lab.daemon.call("Reload")
    assert "declared" not in lab.daemon.links()

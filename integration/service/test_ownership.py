"""Who may do what: real users and units, the real bus policy, real polkit."""

import json

import pytest

from integration.service.guest import Done, Guest
from integration.service.host import COUNT, SERVICE, Host, until

AGENT = "tw-agent.service"
OVERRIDDEN = "986f486acdbf47d2869a3880575a615d"
"""MESSAGE_ID of an owner's link that was changed by an administrator."""
PASSWORD = "correct horse"
USERS = ("stranger", "alice", "carol", "tw", "polly", "denise", "boss")
PASS, OLD, NEW = (
    ("--builtin", "pass"),
    ("--object", COUNT, "--program", "count_old"),
    ("--object", COUNT, "--program", "count_new"),
)
RULES = """
polkit.addRule(function(action, subject) {
    if (action.id == "org.bpflinkd1.attach" && subject.user == "polly") { return polkit.Result.YES; }
    if (action.id == "org.bpflinkd1.change-own" && subject.user == "denise") { return polkit.Result.NO; }
});
"""


@pytest.fixture(scope="module", autouse=True)
def _users(machine: Guest) -> None:
    """carol is in the group team; boss is an administrator, as Debian's polkit sees it, with a password."""
    script = (
        "groupadd -f sudo && groupadd team && "
        f"for user in {' '.join(USERS)}; do useradd --no-create-home --user-group $user || exit; done && "
        "usermod -aG team carol && usermod -aG sudo boss && chpasswd"
    )
    machine.run("sh", "-c", script, given=f"boss:{PASSWORD}\n")
    # Nobody else may read the rules, and the disk was made without the owners of files.
    machine.run("chown", "polkitd", "/etc/polkit-1/rules.d", "/usr/share/polkit-1/rules.d")
    machine.run("systemctl", "restart", "polkit.service")


def grant(holder: str, *interfaces: str) -> str:
    """A table of grants.d."""
    return f"[[grant]]\n{holder}\ntargets = {json.dumps([f'xdp:{name}' for name in interfaces])}\n"


def refused(done: Done, error: str) -> None:
    """What a person and a script are told of a refusal."""
    assert done.code == 4, done
    assert f"bpflinkctl: {error}: " in done.stderr, done


# Grants


def test_stranger_may_look_and_is_refused_everything_else_by_name(host: Host) -> None:
    hook, other = host.wire()
    host.attach("theirs", f"xdp:{hook}", "count_old")
    assert "theirs" in host.ctl("list", user="stranger").stdout
    refused(host.ctl("attach", "x", f"xdp:{other}", *PASS, user="stranger", check=False), "NotAuthorized")
    refused(host.ctl("replace", "theirs", *PASS, user="stranger", check=False), "NotOwner")
    refused(host.ctl("replace", "theirs", *PASS, "--force", user="stranger", check=False), "NotOwner")
    refused(host.ctl("detach", "theirs", "--force", user="stranger", check=False), "NotOwner")
    refused(host.ctl("transfer", "theirs", "user:stranger", user="stranger", check=False), "NotOwner")
    refused(host.ctl("adopt", "x", "--xdp", other, user="stranger", check=False), "NotAuthorized")
    refused(host.ctl("reload", user="stranger", check=False), "NotAuthorized")
    refused(host.ctl("foreign", user="stranger", check=False), "NotAuthorized")
    link = host.link("theirs")
    assert (link["generation"], link["owner"]["uid"], link["program"]["name"]) == (1, 0, "count_old")
    assert "x" not in host.links()


def test_user_with_a_grant_attaches_swaps_and_detaches_there_and_nowhere_else(host: Host) -> None:
    hook, other = host.wire()
    host.grant("alice.toml", grant('user = "alice"', hook))
    host.undo("bpflinkctl", "detach", "mine", "--force")
    host.ctl("attach", "mine", f"xdp:{hook}", *OLD, user="alice")
    with host.traffic((hook, other)) as traffic:
        host.ctl("replace", "mine", *NEW, user="alice")
        counter = host.counter(host.link("mine"))
        until(lambda: counter() > 0, "the new program's count", seconds=30)
    assert 0 < traffic.passed < traffic.sent
    link = host.link("mine")
    assert (link["owner"]["user"], link["by"]["user"], link["generation"]) == ("alice", "alice", 2)
    refused(host.ctl("attach", "x", f"xdp:{other}", *PASS, user="alice", check=False), "NotAuthorized")
    refused(
        host.ctl("replace", "mine", "--id", str(link["program"]["id"]), user="alice", check=False),
        "NotAuthorized",
    )
    refused(host.ctl("transfer", "mine", "user:stranger", user="alice", check=False), "NotAuthorized")
    host.ctl("detach", "mine", user="alice")
    assert "mine" not in host.links()


def test_member_of_a_group_has_its_grant(host: Host) -> None:
    hook, _ = host.wire()
    host.grant("team.toml", grant('group = "team"', hook))
    host.undo("bpflinkctl", "detach", "ours", "--force")
    refused(host.ctl("attach", "ours", f"xdp:{hook}", *PASS, user="alice", check=False), "NotAuthorized")
    host.ctl("attach", "ours", f"xdp:{hook}", *PASS, user="carol")
    assert host.link("ours")["owner"]["user"] == "carol"


def test_grant_that_is_taken_away_takes_swaps_away_and_leaves_the_link(host: Host) -> None:
    hook, _ = host.wire()
    host.grant("alice.toml", grant('user = "alice"', hook))
    host.undo("bpflinkctl", "detach", "left", "--force")
    host.ctl("attach", "left", f"xdp:{hook}", *OLD, user="alice")
    host.run("rm", "/etc/bpflinkd/grants.d/alice.toml")
    host.run("systemctl", "reload", SERVICE)
    refused(host.ctl("replace", "left", *NEW, user="alice", check=False), "NotAuthorized")
    assert host.link("left")["state"] == "active"
    host.ctl("detach", "left", user="alice")


# Units


def test_unit_swaps_its_own_program_and_no_other(host: Host) -> None:
    (mine, _), (others, _) = host.wire(), host.wire()
    host.grant("agent.toml", grant(f'unit = "{AGENT}"', mine, others))
    host.undo("bpflinkctl", "detach", "agents", "--force")
    host.ctl("attach", "agents", f"xdp:{mine}", *OLD, "--owner", f"unit:{AGENT}")
    host.attach("others", f"xdp:{others}", "count_old")
    assert host.link("agents")["owner"] == {"unit": AGENT}
    done = host.ctl_in_unit(AGENT, "tw", "replace", "agents", *NEW)
    assert done.code == 0, done
    link = host.link("agents")
    assert (link["program"]["name"], link["generation"]) == ("count_new", 2)
    assert (link["by"]["unit"], link["by"]["user"]) == (AGENT, "tw")
    assert link["by"]["exe"].startswith("/usr/bin/python3")
    refused(host.ctl_in_unit(AGENT, "tw", "replace", "others", *NEW), "NotOwner")
    assert host.link("others")["generation"] == 1


def test_user_of_a_unit_is_not_the_unit(host: Host) -> None:
    hook, _ = host.wire()
    host.grant("agent.toml", grant(f'unit = "{AGENT}"', hook))
    host.undo("bpflinkctl", "detach", "agents", "--force")
    host.ctl("attach", "agents", f"xdp:{hook}", *OLD, "--owner", f"unit:{AGENT}")
    refused(host.ctl("replace", "agents", *NEW, user="tw", check=False), "NotOwner")
    refused(host.ctl_in_unit("tw-other.service", "tw", "replace", "agents", *NEW), "NotOwner")
    assert host.link("agents")["generation"] == 1


def test_name_of_a_unit_below_ones_own_is_not_the_unit(host: Host) -> None:
    """A service that may make cgroups calls one like another service."""
    hook, _ = host.wire()
    host.grant("agent.toml", grant(f'unit = "{AGENT}"', hook))
    host.undo("bpflinkctl", "detach", "agents", "--force")
    host.ctl("attach", "agents", f"xdp:{hook}", *OLD, "--owner", f"unit:{AGENT}")
    script = (
        f"own=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup) && mkdir -p $own/system.slice/{AGENT} && "
        # 0 is whoever writes; systemd-run makes one dollar of two.
        f"echo 0 > $own/system.slice/{AGENT}/cgroup.procs && cat /proc/self/cgroup && "
        f"exec bpflinkctl replace agents --object {COUNT} --program count_new"
    )
    words = ("--unit=tw-delegate.service", "--uid=tw", "--property=Delegate=yes", "--collect", "--wait")
    done = host.run("systemd-run", "--quiet", *words, "--pipe", "sh", "-c", script, check=False)
    assert f"tw-delegate.service/system.slice/{AGENT}\n" in done.stdout, done
    refused(done, "NotOwner")


# Administrators


def test_root_needs_force_for_the_link_of_another_and_the_journal_tells(host: Host) -> None:
    hook, _ = host.wire()
    host.grant("alice.toml", grant('user = "alice"', hook))
    host.ctl("attach", "hers", f"xdp:{hook}", *OLD, user="alice")
    host.undo("bpflinkctl", "detach", "hers", "--force")
    mark = host.journal_mark()
    refused(host.ctl("replace", "hers", *NEW, check=False), "NotOwner")
    refused(host.ctl("detach", "hers", check=False), "NotOwner")
    assert host.journal(mark, MESSAGE_ID=OVERRIDDEN) == []
    host.ctl("replace", "hers", *NEW, "--force")
    (entry,) = host.journal(mark, MESSAGE_ID=OVERRIDDEN, LINK="hers")
    assert entry["BY"].startswith("uid 0,")
    uid = host.run("id", "-u", "alice").stdout.strip()
    assert f"although user:{uid} owns it" in entry["MESSAGE"]
    link = host.link("hers")
    assert (link["owner"]["user"], link["by"]["uid"], link["generation"]) == ("alice", 0, 2)
    host.ctl("replace", "hers", *OLD, user="alice")


def test_link_is_handed_over(host: Host) -> None:
    hook, _ = host.wire()
    host.grant("both.toml", grant('user = "alice"', hook) + grant('group = "team"', hook))
    host.ctl("attach", "given", f"xdp:{hook}", *OLD, user="alice")
    host.undo("bpflinkctl", "detach", "given", "--force")
    refused(host.ctl("transfer", "given", "user:stranger", user="alice", check=False), "NotAuthorized")
    host.ctl("transfer", "given", "user:carol", user="alice")
    assert host.link("given")["owner"]["user"] == "carol"
    refused(host.ctl("replace", "given", *NEW, user="alice", check=False), "NotOwner")
    host.ctl("replace", "given", *NEW, user="carol")
    host.ctl("transfer", "given", f"unit:{AGENT}", "--force")
    assert host.link("given")["owner"] == {"unit": AGENT}


# polkit


def test_polkit_knows_our_actions(host: Host) -> None:
    shown = host.run("pkaction").stdout.split()
    actions = {action for action in shown if action.startswith("org.bpflinkd1.")}
    words = ("view", "attach", "change-own", "change-any", "adopt", "reload")
    assert actions == {f"org.bpflinkd1.{word}" for word in words}


def test_polkit_rule_lets_one_user_attach_without_a_grant(host: Host) -> None:
    hook, other = host.wire()
    host.polkit_rules(RULES)
    host.undo("bpflinkctl", "detach", "ruled", "--force")
    host.ctl("attach", "ruled", f"xdp:{hook}", *OLD, user="polly")
    assert host.link("ruled")["owner"]["user"] == "polly"
    refused(host.ctl("attach", "x", f"xdp:{other}", *OLD, user="stranger", check=False), "NotAuthorized")
    host.ctl("detach", "ruled", user="polly")


def test_polkit_rule_forbids_one_user_to_change_its_own(host: Host) -> None:
    hook, _ = host.wire()
    host.polkit_rules(RULES)
    host.grant("denise.toml", grant('user = "denise"', hook))
    host.undo("bpflinkctl", "detach", "kept", "--force")
    host.ctl("attach", "kept", f"xdp:{hook}", *OLD, user="denise")
    refused(host.ctl("replace", "kept", *NEW, user="denise", check=False), "NotAuthorized")
    refused(host.ctl("detach", "kept", user="denise", check=False), "NotAuthorized")
    assert host.link("kept")["generation"] == 1


@pytest.mark.parametrize(
    ("password", "allowed"),
    [pytest.param(PASSWORD, True, id="the right one"), pytest.param("wrong", False, id="a wrong one")],
)
def test_password_of_an_administrator_is_asked_for_where_it_may_be(
    host: Host, password: str, allowed: bool
) -> None:
    hook, _ = host.wire()
    host.undo("bpflinkctl", "detach", "asked", "--force")
    attach = ("attach", "asked", f"xdp:{hook}", *OLD)
    told = host.ctl(*attach, user="stranger", check=False)
    refused(told, "NotAuthorized")
    assert "--ask" in told.stderr
    done = host.ctl_typing("stranger", password, "--ask", *attach)
    assert "Authentication is required to attach a BPF program where no grant allows it." in done.stdout
    assert (done.code == 0) is allowed, done
    assert ("asked" in host.links()) is allowed
    if not allowed:
        assert done.code == 4
        assert "NotAuthorized" in done.stdout


def test_without_polkit_owners_change_what_they_own_and_only_grants_count(host: Host) -> None:
    hook, other = host.wire()
    host.grant("alice.toml", grant('user = "alice"', hook))
    host.undo("bpflinkctl", "detach", "mine", "--force")
    host.undo("systemctl", "unmask", "--runtime", "polkit.service")
    host.run("systemctl", "mask", "--runtime", "--now", "polkit.service")
    host.ctl("attach", "mine", f"xdp:{hook}", *OLD, user="alice")
    host.ctl("replace", "mine", *NEW, user="alice")
    refused(host.ctl("attach", "x", f"xdp:{other}", *OLD, user="alice", check=False), "NotAuthorized")


# Lifetime


def test_link_ends_with_the_client_that_holds_it(host: Host) -> None:
    hook, _ = host.wire()
    host.grant("alice.toml", grant('user = "alice"', hook))
    host.undo("bpflinkctl", "detach", "held", "--force")
    words = ("attach", "held", f"xdp:{hook}", *OLD, "--lifetime", "owner", "--grace", "1s")
    holder = host.ctl_that_stays("alice", *words)
    assert host.until_active("held")["lifetime"] == "owner"
    host.run("systemctl", "kill", "--signal=KILL", holder)
    until(lambda: "held" not in host.links(), "the link ends", seconds=60)


def test_fallback_stays_when_the_client_is_gone(host: Host) -> None:
    hook, _ = host.wire()
    host.grant("alice.toml", grant('user = "alice"', hook))
    host.undo("bpflinkctl", "detach", "held", "--force")
    words = ("--lifetime", "owner", "--grace", "1s", "--fallback", "pass")
    holder = host.ctl_that_stays("alice", "attach", "held", f"xdp:{hook}", *OLD, *words)
    before = host.until_active("held")
    host.run("systemctl", "kill", "--signal=KILL", holder)
    until(lambda: host.link("held")["source"] == {"builtin": "pass"}, "the fallback runs", seconds=60)
    after = host.link("held")
    assert (after["state"], after["kernel_link_id"]) == ("active", before["kernel_link_id"])
    assert after["owner"]["user"] == "alice"


def test_link_is_claimed_within_its_grace_time(host: Host) -> None:
    hook, _ = host.wire()
    host.grant("alice.toml", grant('user = "alice"', hook))
    host.undo("bpflinkctl", "detach", "held", "--force")
    words = ("attach", "held", f"xdp:{hook}", *OLD, "--lifetime", "owner", "--grace", "60s")
    first = host.ctl_that_stays("alice", *words)
    holder = host.until_active("held")["hold"]["holder"]
    host.run("systemctl", "kill", "--signal=KILL", first)
    until(lambda: bool(host.link("held")["hold"]["until"]), "the grace time begins", seconds=30)
    refused(host.ctl("claim", "held", user="stranger", check=False), "NotOwner")
    host.ctl_that_stays("alice", "claim", "held")
    until(lambda: host.link("held")["hold"]["holder"] != holder, "it is claimed", seconds=60)
    link = host.link("held")
    assert (link["state"], link["generation"], link["hold"]["until"]) == ("active", 1, None)

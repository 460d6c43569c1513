"""Asking polkit: an authority that misbehaves on demand, and the real one where it is installed.

The first is a FAKE: `_Authority` at the end of this file. It answers by the action it is asked for.
"""

import contextlib
import itertools
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from gi.repository import Gio, GLib

from bpflinkd.core.callers import Action
from bpflinkd.dbus import polkit
from bpflinkd.dbus.polkit import Polkit
from tests.unit.system_bus import AS_NOBODY, connect, system_bus, turn_until

UNITS: Final = Path(__file__).parents[2] / "units"
POLICY: Final = UNITS / "org.bpflinkd1.policy"
POLKITD: Final = Path("/usr/lib/polkit-1/polkitd")
ACTIONS: Final = Path("/usr/share/polkit-1/actions")
_BUS_POLICY: Final = """<busconfig><policy context="default">
  <allow own="org.freedesktop.PolicyKit1"/><allow send_destination="org.freedesktop.PolicyKit1"/>
</policy></busconfig>"""


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    policy = tmp_path_factory.mktemp("policy") / "polkit.conf"
    policy.write_text(_BUS_POLICY)
    with system_bus(policy) as address:
        yield address


@pytest.fixture
def daemon(bus: str) -> Iterator[Gio.DBusConnection]:
    """Who asks."""
    with contextlib.closing(_closing(bus)) as made:
        yield made.connection


@pytest.fixture
def caller(bus: str) -> Iterator["_closing"]:
    """Who is asked about."""
    with contextlib.closing(_closing(bus)) as made:
        yield made


@pytest.fixture
def authority(bus: str) -> Iterator["_Authority"]:
    with contextlib.closing(_closing(bus)) as made:
        yield _Authority(made.connection)


class _closing:  # noqa: N801  # a helper of contextlib's kind
    """A connection that may be closed twice."""

    def __init__(self, address: str) -> None:
        self.connection = connect(address)
        self.name = str(self.connection.get_unique_name())

    def close(self) -> None:
        if not self.connection.is_closed():
            self.connection.close_sync(None)


def answer(asked: Polkit, sender: str, action: Action, *, interactive: bool = False) -> bool:
    told: list[bool] = []
    asked.check(sender, action, interactive, told.append)
    turn_until(lambda: bool(told), "an answer")
    (allowed,) = told
    return allowed


# An authority that misbehaves


@pytest.mark.parametrize(
    ("behaviour", "allowed"),
    [
        pytest.param("yes", True, id="yes"),
        pytest.param("no", False, id="no"),
        pytest.param("challenge", False, id="a password would help, but none may be asked for"),
    ],
)
@pytest.mark.parametrize("action", Action)
def test_what_polkit_says_is_so(
    daemon: Gio.DBusConnection,
    caller: _closing,
    authority: "_Authority",
    action: Action,
    behaviour: str,
    allowed: bool,
) -> None:
    authority.behaviour = behaviour
    assert answer(Polkit(daemon, trusted=True), caller.name, action) is allowed
    subject = ("system-bus-name", {"name": caller.name})
    assert authority.asked == [(subject, f"org.bpflinkd1.{action}", {}, 0, "")]


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param("silence", id="no answer in time"),
        pytest.param("garbage", id="an answer of another type"),
        pytest.param("error", id="an error of its own"),
        pytest.param("leave", id="it ends while it is asked"),
    ],
)
def test_what_is_no_clear_yes_is_a_no_and_told(
    daemon: Gio.DBusConnection,
    caller: _closing,
    authority: "_Authority",
    behaviour: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(polkit, "_TIMEOUT_MS", 300)
    authority.behaviour = behaviour
    assert answer(Polkit(daemon, trusted=True), caller.name, Action.CHANGE_OWN) is False
    assert f"polkit does not say whether {caller.name} may change-own, so it may not" in caplog.text


@pytest.mark.parametrize("action", Action)
def test_without_polkit_owners_change_what_they_own_and_no_more(
    daemon: Gio.DBusConnection, caller: _closing, action: Action, caplog: pytest.LogCaptureFixture
) -> None:
    assert answer(Polkit(daemon, trusted=True), caller.name, action) is (action is Action.CHANGE_OWN)
    assert caplog.text == ""


@pytest.mark.parametrize("action", Action)
def test_on_a_bus_where_anybody_may_be_polkit_nobody_is_asked(
    daemon: Gio.DBusConnection, caller: _closing, authority: "_Authority", action: Action
) -> None:
    authority.behaviour = "yes"
    allowed = answer(Polkit(daemon, trusted=False), caller.name, action, interactive=True)
    assert allowed is (action is Action.CHANGE_OWN)
    assert authority.asked == []


def test_a_person_has_time_to_answer(
    daemon: Gio.DBusConnection, caller: _closing, authority: "_Authority", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polkit, "_TIMEOUT_MS", 50)
    authority.behaviour = "late yes"
    assert answer(Polkit(daemon, trusted=True), caller.name, Action.ATTACH, interactive=True) is True
    ((_, _, _, flags, cancellation),) = authority.asked
    assert flags == 1
    assert cancellation


def test_when_the_caller_leaves_the_person_is_not_asked_any_longer(
    daemon: Gio.DBusConnection,
    caller: _closing,
    authority: "_Authority",
    caplog: pytest.LogCaptureFixture,
) -> None:
    authority.behaviour = "silence"
    told: list[bool] = []
    Polkit(daemon, trusted=True).check(caller.name, Action.ATTACH, True, told.append)
    turn_until(lambda: bool(authority.asked), "the question")
    caller.close()
    turn_until(lambda: bool(told and authority.cancelled), "the end of the question")
    assert told == [False]
    assert authority.cancelled == [authority.asked[0][4]]
    assert caplog.text == ""


def test_people_who_take_their_time_keep_no_place_from_others(
    daemon: Gio.DBusConnection, caller: _closing, authority: "_Authority", bus: str
) -> None:
    """The bus lets a connection wait for 128 answers. Beyond half of them no person is asked."""
    authority.behaviour = "ask a person"
    asked = Polkit(daemon, trusted=True)
    told: list[bool] = []
    for _ in range(100):
        asked.check(caller.name, Action.ATTACH, True, told.append)
    turn_until(lambda: len(authority.asked) == 100 and len(told) == 36, "the questions")
    cancellations = {cancellation for *_, flags, cancellation in authority.asked if flags}
    assert len(cancellations) == 64
    assert told == [False] * 36
    caller.close()
    turn_until(lambda: len(told) == 100, "the end of the questions")
    # There is room again.
    authority.behaviour = "yes"
    with contextlib.closing(_closing(bus)) as next_caller:
        assert answer(asked, next_caller.name, Action.ATTACH, interactive=True) is True
    assert authority.asked[-1][3] == 1


class _Authority:
    """polkit's name on the bus, in this process."""

    XML: Final = (
        "<node><interface name='org.freedesktop.PolicyKit1.Authority'>"
        "<method name='CheckAuthorization'><arg type='(sa{sv})'/><arg type='s'/><arg type='a{ss}'/>"
        "<arg type='u'/><arg type='s'/><arg type='(bba{ss})' direction='out'/></method>"
        "<method name='CancelCheckAuthorization'><arg type='s'/></method>"
        "</interface></node>"
    )

    def __init__(self, connection: Gio.DBusConnection) -> None:
        self.behaviour = "no"
        self.asked: list[Any] = []
        self.cancelled: list[str] = []
        self._connection = connection
        (interface,) = Gio.DBusNodeInfo.new_for_xml(self.XML).interfaces
        connection.register_object(
            "/org/freedesktop/PolicyKit1/Authority", interface, self._called, None, None
        )
        connection.call_sync(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "RequestName",
            GLib.Variant("(su)", ("org.freedesktop.PolicyKit1", 0)),
            None,
            Gio.DBusCallFlags.NONE,
            5000,
            None,
        )

    def _called(self, *call: Any) -> None:
        method, arguments, invocation = call[4:7]
        if method == "CancelCheckAuthorization":
            self.cancelled.extend(arguments.unpack())
            invocation.return_value(None)
            return
        self.asked.append(arguments.unpack())
        match self.behaviour:
            case "yes":
                self._answer(invocation, allowed=True)
            case "late yes":
                GLib.timeout_add(300, lambda: self._answer(invocation, allowed=True))
            case "no":
                self._answer(invocation)
            case "ask a person":  # who does not answer
                if not self.asked[-1][3]:
                    self._answer(invocation, challenge=True)
            case "challenge":
                self._answer(invocation, challenge=True)
            case "garbage":
                reply = Gio.DBusMessage.new_method_reply(invocation.get_message())
                reply.set_body(GLib.Variant("(s)", ("yes",)))
                self._connection.send_message(reply, Gio.DBusSendMessageFlags.NONE)
            case "error":
                name = "org.freedesktop.PolicyKit1.Error.Failed"
                invocation.return_dbus_error(name, "Action org.bpflinkd1.change-own is not registered")
            case "leave":
                self._connection.close_sync(None)

    @staticmethod
    def _answer(invocation: Any, *, allowed: bool = False, challenge: bool = False) -> bool:
        invocation.return_value(GLib.Variant("((bba{ss}))", ((allowed, challenge, {}),)))
        return bool(GLib.SOURCE_REMOVE)


# The policy, and polkit itself


def defaults() -> dict[str, set[str]]:
    """What the policy says of each action, in whatever session."""
    actions = ET.parse(POLICY).getroot().findall("action")
    kinds = ("allow_any", "allow_inactive", "allow_active")
    return {
        str(action.get("id")): {str(action.findtext(f"defaults/{kind}")) for kind in kinds}
        for action in actions
    }


def test_the_policy_knows_the_actions_of_the_code() -> None:
    assert set(defaults()) == {f"org.bpflinkd1.{action}" for action in Action}


def test_a_session_over_ssh_is_worth_one_at_the_machine() -> None:
    assert all(len(each) == 1 for each in defaults().values())


def test_only_owners_need_no_password_and_power_over_others_is_not_kept() -> None:
    said = {identifier.removeprefix("org.bpflinkd1."): kinds for identifier, kinds in defaults().items()}
    assert [action for action, kinds in said.items() if "yes" in kinds] == [Action.CHANGE_OWN]
    kept = {action for action, kinds in said.items() if "auth_admin_keep" in kinds}
    assert not kept & {Action.ATTACH, Action.CHANGE_ANY, Action.ADOPT}


def test_messages_are_sentences() -> None:
    for action in ET.parse(POLICY).getroot().findall("action"):
        message = str(action.findtext("message"))
        assert message.startswith("Authentication is required to ")
        assert message.endswith(".")
        assert action.findtext("description")


_RULES: Final = """
polkit.addRule(function(action, subject) {
    if (action.id == "org.bpflinkd1.attach" && subject.user == "nobody") { return polkit.Result.YES; }
    if (action.id == "org.bpflinkd1.change-own" && subject.user == "nobody") { return polkit.Result.NO; }
});
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bus with a polkit of its own, which has our policy and one rule."""
    if not POLKITD.exists() or shutil.which("pkaction") is None or os.geteuid() != 0:
        pytest.skip("polkit is not installed, or this is not root")
    place = tmp_path_factory.mktemp("polkit")
    actions, rules = place / "actions", place / "rules.d"
    shutil.copytree(ACTIONS, actions)
    shutil.copy(POLICY, actions)
    rules.mkdir()
    (rules / "50-test.rules").write_text(_RULES)
    # polkitd gives up root.
    for directory in itertools.chain([place, actions, rules], place.parents[:2]):
        directory.chmod(0o755)
    binds = f"mount --bind {actions} {ACTIONS} && mount --bind {rules} /etc/polkit-1/rules.d"
    bus_policy = Path("/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf")
    with system_bus(bus_policy) as address:
        environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": address}
        words = ["unshare", "--mount", "sh", "-c", f"{binds} && exec {POLKITD} --no-debug"]
        with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as polkitd:
            try:
                with contextlib.closing(_closing(address)) as made:
                    turn_until(lambda: _is_there(made.connection), "polkit is on the bus")
                yield address
            finally:
                polkitd.terminate()


def _is_there(connection: Gio.DBusConnection) -> bool:
    question = GLib.Variant("(s)", ("org.freedesktop.PolicyKit1",))
    place = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
    answered = connection.call_sync(
        *place, "NameHasOwner", question, None, Gio.DBusCallFlags.NONE, 5000, None
    )
    return bool(answered.unpack()[0])


def test_polkit_itself_reads_the_policy(real: str) -> None:
    done = subprocess.run(
        ["pkaction", "--verbose", "--action-id", "org.bpflinkd1.change-any"],
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": real},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Authentication is required to change a BPF link that somebody else owns." in done.stdout
    assert done.stdout.count("auth_admin\n") == 3


@pytest.mark.parametrize(
    ("action", "allowed"),
    [
        pytest.param(Action.ATTACH, True, id="a rule allows it"),
        pytest.param(Action.CHANGE_OWN, False, id="a rule forbids it"),
        pytest.param(Action.CHANGE_ANY, False, id="the default would ask for a password"),
    ],
)
def test_polkit_itself_answers_by_its_rules(real: str, action: Action, allowed: bool) -> None:
    code = (
        "import sys; from gi.repository import Gio; f = Gio.DBusConnectionFlags\n"
        "bus = Gio.DBusConnection.new_for_address_sync(sys.argv[1], f.AUTHENTICATION_CLIENT |"
        " f.MESSAGE_BUS_CONNECTION, None, None)\n"
        "print(bus.get_unique_name(), flush=True); sys.stdin.read()"
    )
    words = [*AS_NOBODY, "/usr/bin/python3", "-c", code, real]
    with (
        contextlib.closing(_closing(real)) as daemon,
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stranger,
    ):
        assert stranger.stdout is not None
        name = stranger.stdout.readline().strip()
        assert answer(Polkit(daemon.connection, trusted=True), name, action) is allowed


def test_polkit_itself_lets_owners_change_what_they_own(real: str) -> None:
    with contextlib.closing(_closing(real)) as daemon, contextlib.closing(_closing(real)) as caller:
        asked = Polkit(daemon.connection, trusted=True)
        assert answer(asked, caller.name, Action.CHANGE_OWN) is True
        assert answer(asked, ":1.99999", Action.CHANGE_OWN) is False

"""The daemon's methods: one a verb, typed arguments, errors by what they mean."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NoReturn, cast

from gi.repository import Gio, GLib

from bpflinkd.client import messages
from bpflinkd.client.attachments import Attachment
from bpflinkd.client.connection import Connection, Notice
from bpflinkd.client.errors import ClientError, NoDaemon, NoSuchLink, Released
from bpflinkd.client.log import EventLog, gone
from bpflinkd.client.messages import options, text
from bpflinkd.client.owners import Owner
from bpflinkd.client.programs import CSource, Generation, Program
from bpflinkd.client.review import Review
from bpflinkd.client.swaps import Swap, Swapped, body
from bpflinkd.client.targets import Target
from bpflinkd.client.values import (
    Event,
    Finding,
    LinkProperties,
    ManagerProperties,
    Past,
    ProgramFile,
    Refusal,
    Reloaded,
    Row,
    Statistics,
)
from bpflinkd.core import names
from bpflinkd.dbus.contract import LINK, LINKS, MANAGER, OBJECT_MANAGER, PROPERTIES, ROOT

_NO_OBJECT: Final = ("UnknownObject", "UnknownMethod", "UnknownInterface", "NoSuchLink")
QUICK: Final = 30.0
"""Seconds. Long enough for a verifier that has much to read, short enough to notice."""
LONG: Final = 150.0
"""Seconds, where C is compiled or a person is asked. The daemon gives a compiler a minute, and compiles one
source of a user at a time."""


class Client:
    """bpflinkd, through a connection of its own, which `close` or the end of a `with` ends.

    Links that this connection holds (of the lifetime `owner`) begin to end with it; all others stay.
    One thread at a time may use it; while it waits, it runs GLib's default main context.
    """

    def __init__(
        self,
        bus: str = "system",
        *,
        timeout: float | None = None,
        interactive: bool = False,
        slow: Notice | None = None,
    ) -> None:
        """Connect.

        Args:
            bus: `system`, `session` or an address. `DBUS_SYSTEM_BUS_ADDRESS` counts for `system`.
            timeout: seconds for each answer; None for `QUICK`, or `LONG` for what takes long.
            interactive: polkit may ask the user before it answers.
            slow: called when an answer takes over a second; what it returns is called when it is there.

        Raises:
            NoDaemon: the bus cannot be reached.
            NotAllowed: the bus lets this user not in.
        """
        self._timeout = timeout
        self._interactive = interactive
        self._connection = Connection(bus, timeout=timeout or QUICK, interactive=interactive, slow=slow)
        self.log = EventLog(self._connection, self._manager)
        """What happened, also before this client was there."""
        self.review = Review(self._review)
        """What would become of an attach or a replace."""

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Part from the bus."""
        self._connection.close()

    # Changes

    def attach(
        self,
        name: str,
        target: Target | str,
        program: Program,
        *,
        policy: str | None = None,
        wait: bool = False,
        lifetime: str | None = None,
        owner: Owner | str | None = None,
        grace: float | None = None,
        fallback: Program | None = None,
        message: str | None = None,
        force: bool = False,
    ) -> str:
        """Make a link; returns its object path.

        Args:
            target: typed, or as people write it: `xdp:eth0`, `cgroup:/web.slice egress`.
            policy: what is done about a foreign change: `alert` (default), `restore` or `yield`.
            wait: accept a target that is not there yet.
            lifetime: `pinned` (default), `ephemeral` (until the next reboot) or `owner`: it ends when this
                client is closed or dies, unless somebody claims it in time.
            owner: who may change it; None for the user who asks.
            grace: for the lifetime `owner`, the seconds in which it may be claimed.
            fallback: for the lifetime `owner`, the program that stays after that, instead of none.
            message: why, in words; the history keeps it.
            force: also for an owner who has no grant. Administrators only.
        """
        files = Gio.UnixFDList.new()
        source = messages.program(program, files)
        chosen = options(
            policy=policy,
            lifetime=lifetime,
            owner_of=owner,
            grace=grace,
            message=message,
            flags={"wait": wait, "force": force},
        )
        if fallback is not None:
            chosen["fallback"] = messages.vardict(messages.program(fallback, files))
        arguments = (text(name), messages.target(target), source, chosen)
        return cast(str, self._put("Attach", "(sa{sv}a{sv}a{sv})", arguments, files, program))

    def replace(
        self,
        name: str,
        program: Program,
        *,
        expect: int | None = None,
        maps: Mapping[str, str] | None = None,
        fresh_maps: bool = False,
        confirm_within: float | None = None,
        confirm_if: Iterable[str] = (),
        message: str | None = None,
        force: bool = False,
    ) -> int:
        """Swap the program of a link atomically; returns the new generation.

        Maps of the same name and shape go on being used.

        Args:
            expect: refuse with `StaleGeneration` unless the link is at this generation.
            maps: `keep` or `fresh` by name of a map: what is to be otherwise.
            fresh_maps: all maps begin empty.
            confirm_within: seconds in which `confirm` must be called, or the generation before comes back.
            confirm_if: conditions such as `map:drops[0] < 10/s`, by which the daemon judges instead.
            message: why, in words; the history keeps it.
            force: also if the link is another's. Administrators only.
        """
        files = Gio.UnixFDList.new()
        source = messages.program(program, files)
        chosen = options(
            expect=expect,
            maps=maps,
            confirm_within=confirm_within,
            confirm_if=confirm_if,
            message=message,
            flags={"force": force, "fresh_maps": fresh_maps},
        )
        return cast(int, self._put("Replace", "(sa{sv}a{sv})", (text(name), source, chosen), files, program))

    def replace_many(
        self,
        swaps: Sequence[Swap],
        *,
        confirm_within: float | None = None,
        message: str | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> Swapped:
        """Swap the programs of several links, all or none; a refusal names the link.

        Args:
            confirm_within: as for `replace`; each link is confirmed by itself.
            message: why, in words.
            force: also if links are another's. Administrators only.
            dry_run: load and check everything, and change nothing.
        """
        files = Gio.UnixFDList.new()
        given = body(swaps, files)
        chosen = options(
            confirm_within=confirm_within, message=message, flags={"force": force, "dry_run": dry_run}
        )
        arguments = GLib.Variant("(a(sa{sv})a{sv})", (given, chosen))
        with self._connection.hearing(ROOT, MANAGER, "SwappedTogether") as heard:
            (answer,), _ = self._exchange(ROOT, MANAGER, "ReplaceMany", arguments, files, long=True)
        skew = next((skew for told, skew in heard if told == answer), 0)
        return Swapped([(name, number) for name, number in answer], skew)

    def rollback(self, name: str, generation: int | None = None) -> int:
        """Let a generation before run again; returns the new one. `replace` with `Generation` takes options.

        Args:
            generation: None for the one before the present one.
        """
        return self.replace(name, Generation(generation))

    def confirm(self, name: str) -> None:
        """Keep the generation that is on trial. `NotInTrial`."""
        self._manager("Confirm", "(s)", (text(name),))

    def detach(self, name: str, *, force: bool = False) -> None:
        """End a link. `force`: also if it is another's; administrators only."""
        self._manager("Detach", "(sa{sv})", (text(name), options(flags={"force": force})))

    def transfer(self, name: str, owner: Owner | str, *, force: bool = False) -> None:
        """Make somebody else the owner of a link.

        Args:
            force: also if it is another's, and to one who has no grant. Administrators only.
        """
        given = messages.owner(owner) | options(flags={"force": force})
        self._manager("Transfer", "(sa{sv})", (text(name), given))

    def claim(self, name: str) -> None:
        """Hold a link of the lifetime `owner`: from now on it lives with this client."""
        self._manager("Claim", "(s)", (text(name),))

    def hold(self, name: str) -> NoReturn:
        """Stay, so that a link that this client holds lives on; Ctrl-C ends it.

        Raises:
            NoSuchLink: the link has ended.
            Released: another connection holds it now.
            NoDaemon: the bus has gone. While only the daemon is away, this waits for it.
        """

        def judge(held: dict[str, Any]) -> None:
            holder = held.get("holder", "")
            if holder != self._connection.name:
                raise Released(f"link {name!r} is held by {holder or 'nobody'} now", holder)

        def heard(signal: str, arguments: list[Any]) -> None:
            match signal, arguments:
                case "LinkRemoved", [str(ended), str(reason)] if ended == name:
                    raise NoSuchLink(f"link {name!r} has ended: {reason}")
                case "PropertiesChanged", [_, {"Hold": dict(held)}, _]:
                    judge(held)

        def there() -> None:
            try:
                held = self.link(name)["Hold"]
            except NoDaemon:
                return  # gone again; this is called anew when it is back
            judge(held)

        places = [(ROOT, MANAGER), (LINKS + names.encode(text(name)), PROPERTIES)]
        self._connection.listen(places, heard, there=there)

    def adopt(
        self,
        name: str,
        attachment: Attachment,
        *,
        policy: str | None = None,
        owner: Owner | str | None = None,
        force: bool = False,
    ) -> str:
        """Own what somebody else attached; returns the link's object path. What runs goes on running.

        Args:
            attachment: what it is; see `KernelLink`, `PinnedLink` and `NetlinkXdp`.
            force: also for an owner who has no grant.
        """
        number, which = messages.attachment(attachment)
        chosen = which | options(policy=policy, owner_of=owner, flags={"force": force})
        return cast(str, self._manager("Adopt", "(usa{sv})", (number, text(name), chosen))[0])

    def reload(self) -> Reloaded:
        """Apply what the files in links.d declare."""
        done, refused = self._manager("Reload", long=True)
        return Reloaded(done, [Refusal(*one) for one in refused])

    # Reads

    def rows(self) -> list[Row]:
        """Every link in brief, by name: what List returns."""
        return sorted(map(Row._make, self._manager("List")[0]))

    def links(self) -> list[LinkProperties]:
        """Every link with all its properties, by name."""
        (objects,), _ = self._exchange(ROOT, OBJECT_MANAGER, "GetManagedObjects")
        found = [interfaces[LINK] for interfaces in objects.values() if LINK in interfaces]
        return sorted(found, key=lambda link: cast(str, link["Name"]))

    def link(self, name: str) -> LinkProperties:
        """One link, or `NoSuchLink`."""
        try:
            return cast(LinkProperties, self._get_all(LINKS + names.encode(text(name)), LINK))
        except ClientError as error:
            if error.name not in _NO_OBJECT:
                raise
        raise NoSuchLink(f"there is no link {name!r}; 'bpflinkctl list' shows all")

    def program_file(self, name: str) -> ProgramFile:
        """The file that a link's program was loaded from, as the daemon keeps it."""
        arguments = GLib.Variant("(s)", (text(name),))
        (_index, kind, program), fds = self._exchange(ROOT, MANAGER, "ProgramFile", arguments)
        with open(fds[0], "rb") as file:
            return ProgramFile(kind, program, file.read())

    def history(self, name: str) -> list[Past]:
        """The generations of a link that are kept, the oldest first."""
        return cast(list[Past], self._manager("History", "(s)", (text(name),))[0])

    def list_foreign(self) -> list[dict[str, Any]]:
        """Programs on our hooks that are not ours, as ListForeign returns them."""
        return cast(list[dict[str, Any]], self._manager("ListForeign")[0])

    def doctor(self) -> list[Finding]:
        """What is wrong on this host, or may become so; the worst first. Takes seconds on a large host."""
        return cast(list[Finding], self._manager("Doctor", long=True)[0])

    def statistics(self, *, keep: float | None = None) -> Statistics:
        """How often the programs of all links ran.

        Args:
            keep: have the kernel count runs, from before this reading on and for so many seconds (1 to 7200)
                after it, while this client is there. For administrators and owners of links. None: read
                what there is.
        """
        chosen = {} if keep is None else {"keep": messages.u64(int(keep * 1_000_000), "time to count")}
        about, links = self._manager("Statistics", "(a{sv})", (chosen,))
        return Statistics(about["at"], about["counting"], about["reason"], links)

    def status(self) -> ManagerProperties:
        """The daemon's own properties."""
        return cast(ManagerProperties, self._get_all(ROOT, MANAGER))

    def features(self) -> list[tuple[str, bool, str]]:
        """What kernel and host can do: name, whether, and why not."""
        return [tuple(feature) for feature in self._manager("Features")[0]]

    def follow(self, tell: Callable[[Event], None]) -> NoReturn:
        """Call `tell` with everything that happens, until `NoDaemon`, KeyboardInterrupt or what it raises."""

        def heard(signal: str, arguments: list[Any]) -> None:
            link, *others = arguments
            tell(Event(signal, link, others))

        self._connection.listen([(ROOT, MANAGER)], heard, gone=gone)

    # Calls

    def _manager(
        self, method: str, signature: str = "()", arguments: tuple[Any, ...] = (), *, long: bool = False
    ) -> Any:
        return self._exchange(ROOT, MANAGER, method, GLib.Variant(signature, arguments), long=long)[0]

    def _put(
        self,
        method: str,
        signature: str,
        arguments: tuple[Any, ...],
        files: Gio.UnixFDList,
        program: Program,
    ) -> Any:
        """A call that sends a program; the one thing that it returns."""
        body, long = GLib.Variant(signature, arguments), isinstance(program, CSource | Generation)
        return self._exchange(ROOT, MANAGER, method, body, files, long=long)[0][0]

    def _review(self, method: str, arguments: GLib.Variant, files: Gio.UnixFDList) -> Any:
        return self._exchange(ROOT, MANAGER, method, arguments, files, long=True)[0][0]

    def _get_all(self, path: str, interface: str) -> Any:
        return self._exchange(path, PROPERTIES, "GetAll", GLib.Variant("(s)", (interface,)))[0][0]

    def _exchange(
        self,
        path: str,
        interface: str,
        method: str,
        arguments: GLib.Variant | None = None,
        files: Gio.UnixFDList | None = None,
        *,
        long: bool = False,
    ) -> tuple[Any, list[int]]:
        timeout = self._timeout or (LONG if long or self._interactive else QUICK)
        return self._connection.exchange(path, interface, method, arguments, files, timeout)

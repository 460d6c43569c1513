"""The daemon: the composition of all parts, and the main loop."""

import logging
import os
import platform
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gi.repository import Gio, GLib

import bpflinkd
from bpflinkd import garbage, journal, systemd
from bpflinkd.compiling import Compiling
from bpflinkd.config import Config, grants
from bpflinkd.config.grants import GrantsDirectory
from bpflinkd.config.links import LinksDirectory, directories
from bpflinkd.config.receiver import receiver
from bpflinkd.core.chronicle import LogEntry, Query
from bpflinkd.core.declarer import Outcome
from bpflinkd.core.events import (
    LinkAdded,
    LinkRemoved,
    News,
    OfOneLink,
    StateChanged,
    SwappedTogether,
    Tiding,
)
from bpflinkd.core.ids import Micros, UnixMicros
from bpflinkd.core.manager import Manager
from bpflinkd.core.pending import Pending
from bpflinkd.kernel import sentinel
from bpflinkd.kernel.bpffs import PinDirectory
from bpflinkd.kernel.helper import Limits
from bpflinkd.kernel.system import LinuxKernel
from bpflinkd.measuring import Measuring
from bpflinkd.recording import Recording
from bpflinkd.serving import Serving
from bpflinkd.store.sqlite import SqliteStore
from bpflinkd.trials import TrialClock, uptime
from bpflinkd.watching import Watching
from bpflinkd.worker import SHORT, Done, MainLoop, Pool, Worker

if TYPE_CHECKING:
    from bpflinkd.core.model import State

log = logging.getLogger(__name__)

EXIT_FAILED: Final = 1
EXIT_NO_BUS: Final = 3
EXIT_NOT_ALLOWED: Final = 4
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_STATUS_MS: Final = 500
"""The status text follows changes after so long: there may be a thousand at once."""
_LAST_WORDS: Final = 2.0
"""Seconds that the service manager has to take what it was sent before we end."""
_GIVE_WAY: Final = 0.0005
"""Seconds after which the worker, where it computes, lets the main loop go on. Python's own 5 ms, several
times an answer, would be more than a reader is to wait."""
_COMPILERS: Final = 4
"""How many programs are compiled or loaded elsewhere at a time."""
_ALWAYS: Final = "count-runs"
"""Who has runs counted where the settings say so. No name on a bus looks like this."""
_STUCK: Final = 120.0
"""Seconds that one piece of work may take before the watchdog is left to bite."""


class StartError(Exception):
    """The daemon cannot start: a sentence and an exit code."""

    def __init__(self, sentence: str, code: int = EXIT_FAILED) -> None:
        super().__init__(sentence)
        self.code = code


def _now() -> UnixMicros:
    return UnixMicros(time.time_ns() // 1000)


def _ticks() -> Micros:
    return Micros(time.monotonic_ns() // 1000)


class Daemon:
    """One running instance."""

    def __init__(self, config: Config) -> None:
        """Open everything; nothing is touched before `run`."""
        self._config = config
        self._started = _now()
        _raise_descriptor_limit()
        sys.setswitchinterval(_GIVE_WAY)
        _make_runtime_dir(config.runtime_dir)
        self._loop = GLib.MainLoop()
        self._journal = MainLoop(GLib.PRIORITY_DEFAULT_IDLE, SHORT)
        self._store = SqliteStore(config.state_dir, config.history_kept)
        pins = PinDirectory(config.bpffs, systemd.FdStore())
        self._worker = Worker("kernel")
        self._compiler = Pool("compiler", _COMPILERS)
        self._measuring = Measuring(config.metrics_listen)
        kernel = LinuxKernel(
            compile_limits=Limits(seconds=config.compile_timeout),
            compiler_socket=config.compiler_socket,
            swapped=self._measuring.swapped if config.metrics_listen is not None else None,
        )
        self._sentinel = sentinel.open(config.bpffs) if config.sentinel else sentinel.off(config.bpffs)
        self._manager = Manager(
            kernel,
            pins,
            self._store,
            self._published,
            _now,
            _ticks,
            uptime,
            receiver,
            self._sentinel,
            time.monotonic_ns,
        )
        self._trials = TrialClock(self._expire)
        self._compiling = Compiling(self._manager, self._worker, self._compiler)
        self._files = LinksDirectory(directories(config.config_dir))
        self._grants = GrantsDirectory(grants.directories(config.config_dir))
        # Listen before the first look, so that nothing falls between the two.
        self._watching = Watching(
            config.sweep_interval,
            kernel.cgroup_root(),
            config.bpffs,
            self._sentinel,
            self._heard,
            self._start_sweep,
            self._start_witness,
            self._worker.busy_for,
        )
        self._recording = Recording(config.state_dir / "events", config.events_kept, _now, self._recorded)
        self._states: dict[str, State] = {}
        self._refused: tuple[str, ...] = ()
        self._status_due = False
        self._serving = Serving(
            config.bus,
            self._manager,
            self._worker,
            self._compiler,
            self,
            patient=systemd.is_service(),
            connected=self._connected,
            failed=self._off_the_bus,
        )
        self._begun = self._ready = False
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. What runs in the kernel goes on without us."""
        for number in (signal.SIGTERM, signal.SIGINT):
            GLib.unix_signal_add(GLib.PRIORITY_HIGH, number, self._stop)
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGHUP, self._hung_up)
        watchdog = systemd.Watchdog(self._healthy)
        statistics = self._manager.statistics
        if self._config.count_runs:
            self._worker.submit(lambda: statistics.begin(_ALWAYS))
        self._measuring.open(self._worker, statistics.read, self._live_sources)
        garbage.begin()
        if systemd.is_service():
            # Links are for the first packet. The bus of a machine that boots comes later.
            self._begin()
        self._serving.connect()
        self._loop.run()
        watchdog.close()
        self._measuring.close()
        self._watching.close()
        self._worker.stop()  # a compiler at work ends with us
        self._recording.close()
        self._store.close()
        self._sentinel.close()
        # A message of a process that is gone is nobody's to the manager: the last link's descriptor, say.
        systemd.barrier(_LAST_WORDS)
        if self._failure is not None:
            raise self._failure

    # Start

    def _begin(self) -> None:
        """Take back every link, then do what the files say."""
        self._begun = True
        boot = _BOOT.read_text().strip()

        def work() -> tuple[list[Pending], Outcome]:
            return self._manager.start(boot), self._read_files()

        self._worker.submit(work, self._links_are_there)

    def _links_are_there(self, result: Any, error: BaseException | None) -> None:
        if error is not None:
            self._fail(error)
            return
        pending, outcome = result
        self._ready = True
        self._reloaded(outcome)
        systemd.notify("READY=1", self._status())
        self._compiling.all([*pending, *outcome.pending])
        self._serving.offer()

    def _connected(self) -> None:
        if not self._begun:
            self._begin()
        elif self._ready:
            self._serving.offer()

    # News

    def _published(self, news: News) -> None:
        """On the worker: hand news to the main loop."""
        self._worker.main_loop.post(self._tell, news)

    def _tell(self, news: News) -> None:
        if isinstance(news, SwappedTogether):
            self._serving.publish(news)
            self._journal.post(journal.write, news)
            for one in news.each:
                self._tell_of(one)
        else:
            self._tell_of(news)
        if self._ready and not self._status_due:
            self._status_due = True
            GLib.timeout_add(_STATUS_MS, self._tell_status)

    def _tell_of(self, news: OfOneLink) -> None:
        self._recording.add(news, starting=not self._ready)
        self._measuring.tell(news)
        self._serving.publish(news)
        self._trials.hear(news)
        self._journal.post(journal.write, news)
        match news:
            case LinkAdded(view=view):
                self._states[view.record.name] = view.state
                self._watching.follow(view)
            case StateChanged(view=view):
                self._states[view.record.name] = view.state
            case LinkRemoved(view=view):
                self._states.pop(view.record.name, None)
                self._watching.unfollow(view)
            case _:
                pass

    def _recorded(self, number: int) -> None:
        self._serving.recorded(number)

    def events(self, query: Query, make: Callable[[tuple[LogEntry, ...]], GLib.Variant], done: Done) -> None:
        """Read the event log: see `dbus.verbs.ReadEvents`."""
        self._recording.read(query, make, done)

    def _status(self) -> str:
        """For `systemctl status`."""
        states = Counter(self._states.values())
        counts = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
        refused = f"; {len(self._refused)} declarations refused" if self._refused else ""
        return f"STATUS={len(self._states)} links{': ' if counts else ''}{counts}{refused}"

    def _tell_status(self) -> bool:
        self._status_due = False
        systemd.notify(self._status())
        return bool(GLib.SOURCE_REMOVE)

    # Watching

    def _heard(self, tiding: Tiding) -> None:
        self._worker.submit(lambda: self._manager.hear(tiding), self._then_compile)

    def _start_sweep(self, ended: Callable[[], None]) -> None:
        def done(pending: Any, error: BaseException | None) -> None:
            self._then_compile(pending, error)
            ended()

        self._worker.submit(self._manager.sweep, done)

    def _start_witness(self, ended: Callable[[], None]) -> None:
        def done(_result: Any, error: BaseException | None) -> None:
            if error is not None:
                log.error("what the sentinel told could not be handled: %s", error, exc_info=error)
            ended()

        self._worker.submit(self._manager.witness, done)

    def _then_compile(self, pending: Any, error: BaseException | None) -> None:
        if error is not None:
            log.error("looking at the links failed: %s", error, exc_info=error)
            return
        self._compiling.all(pending)

    def _expire(self, name: str) -> None:
        """A generation on trial is to be looked at."""
        self._worker.submit(lambda: self._manager.history.expire(name), self._then_compile)

    def _live_sources(self) -> dict[str, bool]:
        return {source.name: source.live for source in self._watching.sources()}

    # Reload

    def reload(self, done: Callable[[Outcome | None, BaseException | None], None]) -> None:
        """Apply what the files say now. Reloads that come together follow one another."""

        def applied(outcome: Any, error: BaseException | None) -> None:
            if error is not None:
                done(None, error)
                return

            def compiled() -> None:
                self._reloaded(outcome)
                done(outcome, None)

            self._compiling.all(outcome.pending, compiled)

        self._worker.submit(self._read_files, applied)

    def _read_files(self) -> Outcome:
        """On the worker: apply what the files say."""
        granted = self._grants.read()
        outcome = self._manager.reload(self._files.read(), granted.grants)
        for refusal in granted.refused:
            log.error("refused: %s", refusal.sentence)
        outcome.refused += granted.refused
        return outcome

    def _reloaded(self, outcome: Outcome) -> None:
        self._refused = tuple(refusal.sentence for refusal in outcome.refused)
        self._watching.follow_patterns(self._manager.cgroup_patterns())
        counted = {**outcome.done, "refused": len(self._refused)}
        counts = ", ".join(f"{number} {what}" for what, number in sorted(counted.items()) if number)
        log.info("declared links: %s", counts or "none")
        if self._ready:
            self._tell_status()

    def _hung_up(self) -> bool:
        def done(_outcome: Outcome | None, error: BaseException | None) -> None:
            if error is not None:
                log.error("the reload failed: %s", error, exc_info=error)

        self.reload(done)
        return bool(GLib.SOURCE_CONTINUE)

    # End

    def _healthy(self) -> bool:
        return self._worker.busy_for() < _STUCK

    def _stop(self) -> bool:
        systemd.notify("STOPPING=1")
        self._loop.quit()
        return bool(GLib.SOURCE_CONTINUE)

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._loop.quit()

    def _off_the_bus(self, error: Exception) -> None:
        self._fail(_no_name(self._config.bus, error))

    # For readers

    def properties(self) -> dict[str, GLib.Variant]:
        """The daemon's part of the Manager's properties."""
        config = self._config
        paths = {
            "bpffs": str(config.bpffs),
            "state": str(config.state_dir),
            "config": str(config.config_dir),
            "runtime": str(config.runtime_dir),
        }
        sources = {
            source.name: {
                "live": GLib.Variant("b", source.live),
                "events": GLib.Variant("t", source.events),
                "detail": GLib.Variant("s", source.detail),
            }
            for source in self._watching.sources()
        }
        return {
            "Version": GLib.Variant("s", bpflinkd.__version__),
            "Pid": GLib.Variant("u", os.getpid()),
            "Started": GLib.Variant("t", self._started),
            "KernelRelease": GLib.Variant("s", platform.release()),
            "Paths": GLib.Variant("a{ss}", paths),
            "WatchSources": GLib.Variant("a{sa{sv}}", sources),
            "Refused": GLib.Variant("as", self._refused),
            "LastEvent": GLib.Variant("t", self._recording.newest),
        }


def _raise_descriptor_limit() -> None:
    """Each link takes two descriptors; the usual soft limit is for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _make_runtime_dir(place: Path) -> None:
    try:
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"the runtime directory {place} cannot be made: {error.strerror}") from None


def _no_name(bus: str, error: Exception) -> Exception:
    """Why we are not on the bus, for people; what is no matter of the bus as it is."""
    if isinstance(error, GLib.Error) and Gio.DBusError.is_remote_error(error):
        # The bus's own answer.
        return StartError(
            f"the {bus} bus does not let us own org.bpflinkd1: {error.message}; "
            "is its policy file installed?",
            EXIT_NOT_ALLOWED,
        )
    if isinstance(error, GLib.Error):
        return StartError(
            f"the bus {bus} cannot be reached: {error.message}; is dbus-daemon running?", EXIT_NO_BUS
        )
    if isinstance(error, RuntimeError):
        return StartError(f"another bpflinkd owns org.bpflinkd1 on the {bus} bus")
    return error

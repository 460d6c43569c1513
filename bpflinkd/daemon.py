"""The daemon: argv, the composition of all parts, and the main loop."""

import logging
import os
import platform
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pydbus
from gi.repository import GLib

import bpflinkd
from bpflinkd import journal, systemd
from bpflinkd.config import Config, ConfigError, load
from bpflinkd.core.errors import BpflinkdError
from bpflinkd.core.events import News, Tiding
from bpflinkd.core.manager import Manager
from bpflinkd.core.model import UnixMicros
from bpflinkd.dbus.service import Service
from bpflinkd.kernel.bpffs import PinDirectory
from bpflinkd.kernel.helper import Limits
from bpflinkd.kernel.system import LinuxKernel
from bpflinkd.store.sqlite import SqliteStore
from bpflinkd.watch.netlink import NetlinkWatch
from bpflinkd.watch.sweep import Sweep
from bpflinkd.watch.uevent import UeventWatch
from bpflinkd.worker import Worker

log = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_NO_BUS = 3
EXIT_NOT_ALLOWED = 4


class StartError(Exception):
    """The daemon cannot start: a sentence and an exit code."""

    def __init__(self, sentence: str, code: int = EXIT_FAILED) -> None:
        super().__init__(sentence)
        self.code = code


def _now() -> UnixMicros:
    return UnixMicros(time.time_ns() // 1000)


class Daemon:
    """One running instance."""

    def __init__(self, config: Config) -> None:
        """Open everything, take back every link, then show up on the bus."""
        self._config = config
        self._started = _now()
        _raise_descriptor_limit()
        _make_runtime_dir(config.runtime_dir)
        self._loop = GLib.MainLoop()
        self._store = SqliteStore(config.state_dir)
        pins = PinDirectory(config.bpffs)
        self._bus = _connect(config.bus)
        self._worker = Worker("kernel")
        self._compiler = Worker("compiler")
        kernel = LinuxKernel(compile_limits=Limits(seconds=config.compile_timeout))
        self._manager = Manager(kernel, pins, self._store, self._published, _now)
        self._service = Service(self._bus, self._manager, self._worker.submit, self._compiler.submit, self)
        # Listen before the first look, so that nothing falls between the two.
        self._sweep = Sweep(config.sweep_interval, self._start_sweep)
        self._netlink = NetlinkWatch(self._heard, self._sweep.now)
        self._uevent = UeventWatch(self._heard, self._sweep.now)
        self._failure: BaseException | None = None
        self._worker.submit(self._manager.start, self._links_taken_back)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. What runs in the kernel goes on without us."""
        for number in (signal.SIGTERM, signal.SIGINT):
            GLib.unix_signal_add(GLib.PRIORITY_HIGH, number, self._stop)
        self._bus.con.connect("closed", self._bus_closed)
        self._loop.run()
        self._sweep.close()
        self._netlink.close()
        self._uevent.close()
        self._worker.stop()  # a compiler at work ends with us
        self._store.close()
        if self._failure is not None:
            raise self._failure

    def properties(self) -> dict[str, GLib.Variant]:
        """The daemon's part of the Manager's properties."""
        config = self._config
        paths = {
            "bpffs": str(config.bpffs),
            "state": str(config.state_dir),
            "config": str(config.config_dir),
            "runtime": str(config.runtime_dir),
        }
        netlink, uevent, sweep = self._netlink, self._uevent, self._sweep
        sources = {
            "netlink": _source(
                netlink.events,
                "interfaces: attach by netlink, gone, renamed, moved, back; blind to bpf_link updates",
            ),
            "uevent": _source(uevent.events, "kernel modules, and with them the functions of kprobes"),
            "sweep": _source(sweep.done, f"every link, every {sweep.interval:g} s"),
        }
        return {
            "Version": GLib.Variant("s", bpflinkd.__version__),
            "Pid": GLib.Variant("u", os.getpid()),
            "Started": GLib.Variant("t", self._started),
            "KernelRelease": GLib.Variant("s", platform.release()),
            "Paths": GLib.Variant("a{ss}", paths),
            "WatchSources": GLib.Variant("a{sa{sv}}", sources),
        }

    def _links_taken_back(self, _result: Any, error: BaseException | None) -> None:
        try:
            if error is not None:
                raise error
            self._service.claim()
        except (RuntimeError, GLib.Error) as refusal:
            self._failure = _name_refused(self._config.bus, refusal)
            self._loop.quit()
        except BaseException as other:
            self._failure = other
            self._loop.quit()
        else:
            systemd.notify("READY=1", f"STATUS=Holding the links of {self._config.state_dir}.")
            log.info("ready on the %s bus", self._config.bus)

    def _published(self, news: News) -> None:
        """On the worker: hand news to the main loop."""
        self._worker.main_loop.post(self._tell, news)

    def _tell(self, news: News) -> None:
        self._service.publish(news)
        GLib.idle_add(journal.write, news)

    def _heard(self, tiding: Tiding) -> None:
        self._worker.submit(lambda: self._manager.observer.hear(tiding))

    def _start_sweep(self, ended: Callable[[], None]) -> None:
        def done(_result: Any, error: BaseException | None) -> None:
            if error is not None:
                log.error("a sweep failed: %s", error, exc_info=error)
            ended()

        self._worker.submit(self._manager.observer.sweep, done)

    def _stop(self) -> bool:
        systemd.notify("STOPPING=1")
        self._loop.quit()
        return bool(GLib.SOURCE_CONTINUE)

    def _bus_closed(self, *_arguments: Any) -> None:
        self._failure = StartError("the D-Bus connection was closed; links stay attached", EXIT_NO_BUS)
        self._loop.quit()


def _raise_descriptor_limit() -> None:
    """Each link takes two descriptors; the usual soft limit is for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _make_runtime_dir(place: Path) -> None:
    try:
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"the runtime directory {place} cannot be made: {error.strerror}") from None


def _source(events: int, detail: str) -> dict[str, GLib.Variant]:
    return {
        "live": GLib.Variant("b", True),
        "events": GLib.Variant("t", events),
        "detail": GLib.Variant("s", detail),
    }


def _connect(address: str) -> pydbus.bus.Bus:
    try:
        if address == "system":
            bus = pydbus.SystemBus()
        elif address == "session":
            bus = pydbus.SessionBus()
        else:
            bus = pydbus.connect(address)
    except GLib.Error as error:
        raise StartError(
            f"the bus {address} cannot be reached: {error.message}; is dbus-daemon running?",
            EXIT_NO_BUS,
        ) from None
    # GIO would end the process by itself, without a word.
    bus.con.set_exit_on_close(False)
    return bus


def _name_refused(bus: str, refusal: Exception) -> StartError:
    if isinstance(refusal, GLib.Error):
        return StartError(
            f"the {bus} bus does not let us own org.bpflinkd1: {refusal.message}; "
            "is its policy file installed?",
            EXIT_NOT_ALLOWED,
        )
    return StartError(f"another bpflinkd owns org.bpflinkd1 on the {bus} bus")


# Whether a directory can be used is found out by using it, with a better sentence.
_Dir = click.Path(path_type=Path, readable=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(bpflinkd.__version__, prog_name="bpflinkd")
@click.option("--bus", metavar="ADDRESS", help="system (default), session, or a D-Bus address.")
@click.option(
    "--config-dir",
    type=_Dir,
    default=Config().config_dir,
    show_default=True,
    help="Where bpflinkd.toml is.",
)
@click.option("--state-dir", type=_Dir, help="Records.  [default: /var/lib/bpflinkd]")
@click.option("--bpffs", type=_Dir, help="Pins.  [default: /sys/fs/bpf/bpflinkd]")
@click.option("--runtime-dir", type=_Dir, help="Volatile files.  [default: /run/bpflinkd]")
@click.option("--foreground", is_flag=True, default=None, help="Log to standard error.")
@click.option("--sweep-interval", type=float, metavar="S", help="Seconds.  [default: 5]")
@click.option(
    "--compile-timeout", type=float, metavar="S", help="Seconds a C source may take.  [default: 60]"
)
def main(config_dir: Path, **given: Any) -> None:
    """Own this host's BPF attachments: run until stopped. Stopping changes nothing in the kernel.

    Exit codes: 0 stopped, 1 failed, 2 usage, 3 no bus, 4 not allowed.
    """
    try:
        config = load(config_dir, given)
        systemd.set_up_logging(foreground=config.foreground)
        if os.geteuid() != 0:
            raise StartError(
                "bpflinkd must run as root: it loads and attaches BPF programs", EXIT_NOT_ALLOWED
            )
        Daemon(config).run()
    except StartError as error:
        _die(str(error), error.code)
    except (BpflinkdError, ConfigError) as error:
        _die(str(error), EXIT_FAILED)


def _die(sentence: str, code: int) -> None:
    click.echo(f"bpflinkd: {sentence}", err=True)
    raise SystemExit(code)

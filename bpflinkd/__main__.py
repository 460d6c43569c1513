"""The command line of the daemon. `python -m bpflinkd` is the same."""

import faulthandler
import os
import signal
from pathlib import Path
from typing import Any

import click

import bpflinkd
from bpflinkd import systemd
from bpflinkd.config import Config, ConfigError, load
from bpflinkd.core.errors import BpflinkdError
from bpflinkd.daemon import EXIT_FAILED, EXIT_NOT_ALLOWED, Daemon, StartError

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
    help="Where bpflinkd.toml, links.d and grants.d are.",
)
@click.option("--state-dir", type=_Dir, help="Records.  [default: /var/lib/bpflinkd]")
@click.option("--bpffs", type=_Dir, help="Pins.  [default: /sys/fs/bpf/bpflinkd]")
@click.option("--runtime-dir", type=_Dir, help="Volatile files.  [default: /run/bpflinkd]")
@click.option("--foreground", is_flag=True, default=None, help="Log to standard error.")
@click.option("--sweep-interval", type=float, metavar="S", help="Seconds.  [default: 5]")
@click.option(
    "--sentinel/--no-sentinel",
    default=None,
    help="Have our program in the kernel tell who changes what.  [default: where the kernel allows it]",
)
@click.option("--events-kept", type=int, metavar="N", help="Entries of the event log.  [default: 10000]")
@click.option("--history-kept", type=int, metavar="N", help="Generations of each link.  [default: 16]")
@click.option(
    "--metrics-listen",
    metavar="PATH|ADDRESS:PORT",
    help="Offer metrics for Prometheus there.  [default: nowhere]",
)
@click.option(
    "--count-runs/--no-count-runs",
    default=None,
    help="Have the kernel count runs of programs all the time.  [default: while somebody asks]",
)
@click.option(
    "--compile-timeout", type=float, metavar="S", help="Seconds a C source may take.  [default: 60]"
)
@click.option(
    "--compiler-socket",
    type=_Dir,
    envvar="BPFLINKD_COMPILER_SOCKET",
    help="Where compilers of C wait.  [default: start one]",
)
def main(config_dir: Path, **given: Any) -> None:
    """Own this host's BPF attachments: run until stopped. Stopping changes nothing in the kernel.

    SIGHUP applies what changed in links.d and grants.d, as 'bpflinkctl reload' does.

    Exit codes: 0 stopped, 1 failed, 2 usage, 3 no bus, 4 not allowed.
    """
    # Until the daemon listens; what the files say by then, the start reads anyway.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # The watchdog ends us by SIGABRT: then the log shows where every thread was.
    faulthandler.enable()
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


if __name__ == "__main__":
    main()

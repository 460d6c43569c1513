"""`python -m integration`: the conformance suite on this kernel and in guests, and a table.

Exit codes: 0 every promise kept or not supported by the kernel, 1 one is broken or could not be tried.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from integration.guest import kernels, machine, suite
from integration.guest.suite import Report

HERE: Final = "here"
PLACES: Final = (HERE, *kernels.SUITES)
WORK: Final = machine.REPO / "build" / "guests"
INSTALLED: Final = WORK / "installed"


@click.command()
@click.argument("places", nargs=-1, type=click.Choice(PLACES))
@click.option("--quiet", is_flag=True, help="Only the table.")
def main(places: Sequence[str], quiet: bool) -> None:
    """Try every promise here and on Debian's kernels in guests; PLACES chooses some of them."""
    console = Console(width=max(Console().width, 120))
    begun = time.monotonic()

    def hear(line: str) -> None:
        if not quiet:
            console.out(f"{time.monotonic() - begun:7.1f}  {line}", highlight=False)

    reports = []
    for place in places or PLACES:
        hear(f"--- {place}")
        reports.append(_report(place, hear))
    console.print(_table(reports))
    for report in reports:
        console.print(
            f"{report.kernel}: {len(report.outcomes)} tries in {report.seconds:.0f} s {report.failure}"
        )
    broken = any(report.failure or not report.outcomes for report in reports) or any(
        outcome.result == "broken" for report in reports for outcome in report.outcomes
    )
    sys.exit(1 if broken else 0)


def _report(place: str, hear: Callable[[str], None]) -> Report:
    if place == HERE:
        return suite.on_this_machine(WORK / place, hear)
    try:
        kernel = kernels.get(place)
    except kernels.KernelError as error:
        return Report(f"the kernel of {place}", 0, (), str(error))
    hear(f"booting {kernel.release}")
    return suite.in_guest(kernel, _installed(), WORK / place, hear)


def _installed() -> Path:
    """The daemon of this checkout, installed as on a host; once a run."""
    program = INSTALLED / "bin" / "bpflinkd"
    if not _ready:
        subprocess.run(["make", "--silent", "install", f"PREFIX={INSTALLED}"], check=True, cwd=machine.REPO)
        # The tests themselves: a guest cannot write beside them.
        subprocess.run(
            [sys.executable, "-m", "compileall", "-q", "bpflinkd", "tests", "integration"],
            check=True,
            cwd=machine.REPO,
        )
        _ready.append(program)
    return program


_ready: list[Path] = []


def _table(reports: Sequence[Report]) -> Table:
    """Kind x kernel x promise."""
    promises = list(dict.fromkeys(o.promise for report in reports for o in report.outcomes if o.kind))
    table = Table(title="promises kept")
    table.add_column("kind")
    table.add_column("kernel")
    for promise in promises:
        table.add_column(promise)
    kinds = dict.fromkeys(o.kind for report in reports for o in report.outcomes if o.kind)
    for kind in kinds:
        for report in reports:
            found = {o.promise: o.result for o in report.outcomes if o.kind == kind}
            table.add_row(kind, report.kernel, *(found.get(promise, "-") for promise in promises))
    return table


if __name__ == "__main__":
    main()

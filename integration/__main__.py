"""`python -m integration`: the conformance suite on this kernel and in guests, and a table; the service
under a real systemd.

Exit codes: 0 every promise kept or not supported by the kernel, 1 one is broken or could not be tried.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from integration.guest import kernels, machine, suite
from integration.guest.suite import Outcome, Report

HERE: Final = "here"
SYSTEMD: Final = "systemd"
PLACES: Final = (HERE, *kernels.SUITES, SYSTEMD)
KERNEL_TESTS: Final = suite.KERNEL_TESTS
LONGEST_FIRST: Final = (SYSTEMD, "bookworm-backports", "sid", "bookworm", KERNEL_TESTS)
"""What goes on beside each other, two at a time on two processors: guests, which have kernels of their own,
and the tests of this machine's kernel, beside which nothing else may use it."""
assert {HERE, KERNEL_TESTS, *PLACES} == {HERE, *LONGEST_FIRST}
WORK: Final = machine.REPO / "build" / "guests"
INSTALLED: Final = WORK / "installed"


@click.command()
@click.argument("places", nargs=-1, type=click.Choice(PLACES))
@click.option("--kernel-tests", is_flag=True, help="Also tests/kernel on this machine, beside the guests.")
@click.option("--quiet", is_flag=True, help="Only the table.")
def main(places: Sequence[str], kernel_tests: bool, quiet: bool) -> None:
    """Try every promise here, on Debian's kernels in guests, and as a service under systemd.

    PLACES chooses some of them.
    """
    console = Console(width=max(Console().width, 132), highlight=False)
    begun = time.monotonic()

    def hear(place: str, line: str) -> None:
        if not quiet:
            console.out(f"{time.monotonic() - begun:7.1f} {place:18} {line}")

    chosen = (*(places or PLACES), *([KERNEL_TESTS] if kernel_tests else []))
    if set(chosen) != {HERE}:
        _install()
    found = {place: _report(place, partial(hear, place)) for place in chosen if place == HERE}
    # A guest keeps one processor busy. What takes longest comes first, or it would be waited for alone.
    with ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2)) as pool:
        work = {
            place: pool.submit(_report, place, partial(hear, place))
            for place in LONGEST_FIRST
            if place in chosen
        }
        found |= {place: done.result() for place, done in work.items()}
    reports = [found[place] for place in (*PLACES, KERNEL_TESTS) if place in found]
    if any(outcome.kind for report in reports for outcome in report.outcomes):
        console.print(_table(reports))
    for line in _notes(reports):
        console.print(line)
    console.print(f"{time.monotonic() - begun:.0f} s in all")
    sys.exit(1 if any(_broken(report) for report in reports) else 0)


def _report(place: str, hear: Callable[[str], None]) -> Report:
    if place == HERE:
        return suite.on_this_machine(WORK / place, hear)
    if place == KERNEL_TESTS:
        return suite.kernel_tests(WORK / "kernel-tests", hear)
    if place == SYSTEMD:
        return suite.under_systemd(WORK / place, hear)
    try:
        kernel = kernels.get(place)
    except kernels.KernelError as error:
        return Report(f"the kernel of {place}", 0, (), str(error))
    hear(f"booting {kernel.release}")
    return suite.in_guest(kernel, INSTALLED / "bin" / "bpflinkd", WORK / place, hear)


def _install() -> None:
    """The daemon of this checkout, as on a host, and byte code of the tests: guests cannot write."""
    for command in (
        ["make", "--silent", "install", f"PREFIX={INSTALLED}"],
        [sys.executable, "-m", "compileall", "-q", "bpflinkd", "tests", "integration"],
    ):
        subprocess.run(command, check=True, cwd=machine.REPO)


def _broken(report: Report) -> bool:
    broken = any(outcome.result == "broken" for outcome in report.outcomes)
    return broken or bool(report.failure) or not report.outcomes


def _table(reports: Sequence[Report]) -> Table:
    """Kind x kernel x promise."""
    promises = list(dict.fromkeys(o.promise for report in reports for o in report.outcomes if o.kind))
    fixed = [Column(header, no_wrap=True) for header in ("kind", "kernel")]
    table = Table(*fixed, *promises)
    kinds = dict.fromkeys(o.kind for report in reports for o in report.outcomes if o.kind)
    for kind in kinds:
        for report in reports:
            found = {o.promise: o.result for o in report.outcomes if o.kind == kind}
            table.add_row(kind, report.kernel, *(_CELLS.get(found.get(p, ""), "no") for p in promises))
        table.add_section()
    return table


_CELLS: Final = {"kept": "[green]kept[/]", "broken": "[bold red]BROKEN[/]", "": "-"}


def _notes(reports: Sequence[Report]) -> Iterator[str]:
    """What the table does not say: why something is not supported, and the tests that are of no kind."""
    for report in reports:
        lacks: dict[str, list[Outcome]] = {}
        for outcome in report.outcomes:
            if outcome.result not in _CELLS:
                lacks.setdefault(outcome.result, []).append(outcome)
        for reason, outcomes in lacks.items():
            kinds = ", ".join(dict.fromkeys(outcome.kind for outcome in outcomes if outcome.kind))
            others = sum(not outcome.kind for outcome in outcomes)
            yield f"{report.kernel}: {reason}: {kinds or '-'} not supported, nor {others} tests of no kind"
        kept = sum(outcome.result == "kept" for outcome in report.outcomes if not outcome.kind)
        yield f"{report.kernel}: {kept} tests of no kind passed; {report.seconds:.0f} s {report.failure}"
        for outcome in report.outcomes:
            if outcome.result == "broken":
                told = escape(f"BROKEN: {outcome.promise} {outcome.kind}: {outcome.why}")
                yield f"[bold red]{report.kernel}: {told}[/]"


if __name__ == "__main__":
    main()

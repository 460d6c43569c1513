"""The conformance suite on one kernel, read back from pytest's JUnit report."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from integration.conformance.kinds import KINDS
from integration.guest import machine
from integration.guest.kernels import Kernel

SUITE: Final = "integration/conformance"
SERVICE: Final = "integration/service"
KERNEL_TESTS: Final = "tests/kernel"
TRACING: Final = "tests/kernel/test_sentinel.py"
"""Where development machines refuse tracing programs, only guests try them."""
TRACES: Final = "bookworm"
"""The one kernel on which they are: it has the least else to do. Strangers are tried on all."""
COMPILES: Final = "bookworm-backports"
"""The one kernel on which sources that are refused are tried: they cost minutes, and no kernel matters."""
KERNEL_PATIENCE: Final = 120
PATIENCE: Final = 400
"""Seconds that one test may take; the first compile under emulation takes 90."""
SERVICE_PATIENCE: Final = 900
"""The first test of the service makes a disk and boots from it."""
GUEST_SECONDS: Final = 2700.0
"""A guest may take so long, from power on to power off."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One promise of one kind of link on one kernel."""

    promise: str
    kind: str
    """Empty for tests that are not of each kind."""
    result: str
    """`kept`, `broken`, or what the kernel lacks."""
    why: str = ""
    """What broke it, in a few lines."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one kernel said."""

    kernel: str
    seconds: float
    outcomes: tuple[Outcome, ...]
    failure: str = ""
    """Why there is no whole report, where there is none."""


def on_this_machine(results: Path, hear: Callable[[str], None]) -> Report:
    """Run it on the kernel that runs here."""
    return _from_here(SUITE, os.uname().release, results, hear)


def under_systemd(results: Path, hear: Callable[[str], None]) -> Report:
    """Run the tests of the service, which boot a guest of their own and drive it from here."""
    return _from_here(SERVICE, "a guest with systemd", results, hear, patience=SERVICE_PATIENCE)


def kernel_tests(results: Path, hear: Callable[[str], None]) -> Report:
    """Run tests/kernel, which is of no kind of link. Nothing else may use BPF on this kernel meanwhile."""
    found = _from_here(KERNEL_TESTS, KERNEL_TESTS, results, hear, patience=KERNEL_PATIENCE)
    return replace(found, outcomes=tuple(replace(outcome, kind="") for outcome in found.outcomes))


def _from_here(
    tests: str, where: str, results: Path, hear: Callable[[str], None], patience: int = PATIENCE
) -> Report:
    results.mkdir(parents=True, exist_ok=True)
    report = results / "report.xml"
    report.unlink(missing_ok=True)
    with subprocess.Popen(
        [sys.executable, *_pytest(report, tests, patience)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=machine.REPO,
    ) as running:
        assert running.stdout
        for line in running.stdout:
            hear(line.rstrip())
    return _read(where, report)


def in_guest(kernel: Kernel, program: Path, results: Path, hear: Callable[[str], None]) -> Report:
    """Run it in a guest, with the daemon that is installed at `program`."""
    report = results / "report.xml"
    report.unlink(missing_ok=True)
    settings = {
        "BPFLINKD_PROGRAM": str(program),
        "BPFLINKD_KERNEL_CONFIG": str(kernel.config_file),
        # Each plugin costs seconds there, and one wants to write beside the repository.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    more = ["-p", "pytest_timeout"]
    if kernel.suite == TRACES:
        more.append(TRACING)
    if kernel.suite != COMPILES:
        more.append(f"--ignore={SUITE}/test_source_refusals.py")
    try:
        machine.run(
            kernel,
            ["env", *words, sys.executable, *_pytest(report, SUITE, PATIENCE, *more)],
            results,
            seconds=GUEST_SECONDS,
            hear=hear,
        )
    except machine.GuestError as error:
        return Report(kernel.release, 0, (), str(error))
    return _read(kernel.release, report)


def _pytest(report: Path, tests: str, patience: int, *more: str) -> list[str]:
    limits = ["-o", f"timeout={patience}"]
    return ["-m", "pytest", "-v", "-p", "no:cacheprovider", *limits, f"--junit-xml={report}", *more, tests]


def _read(release: str, report: Path) -> Report:
    if not report.exists():
        return Report(release, 0, (), "the suite wrote no report")
    (suite,) = ET.parse(report).getroot()
    outcomes = tuple(_outcome(case) for case in suite.iter("testcase"))
    return Report(release, float(suite.get("time", "0")), outcomes)


def _outcome(case: ET.Element) -> Outcome:
    name, _, rest = case.get("name", "").partition("[")
    result, why = "kept", ""
    for child in case:
        if child.tag == "skipped":
            result = child.get("message", "skipped")
        elif child.tag in ("failure", "error"):
            result, why = "broken", child.get("message", "")[:500]
    variant = rest.removesuffix("]")
    kind = variant if variant in KINDS else ""
    promise = name.removeprefix("test_").replace("_", " ") + (f" ({variant})" if variant and not kind else "")
    return Outcome(promise=promise, kind=kind, result=result, why=why)

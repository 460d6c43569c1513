"""The conformance suite on one kernel, read back from pytest's JUnit report."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from integration.conformance.kinds import KINDS
from integration.guest import machine
from integration.guest.kernels import Kernel

SUITE: Final = "integration/conformance"
COMPILES: Final = "bookworm-backports"
"""The one kernel on which sources that are refused are tried: they cost minutes, and no kernel matters."""
PATIENCE: Final = 400
"""Seconds that one test may take; the first compile under emulation takes 90."""
GUEST_SECONDS: Final = 900.0
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
    results.mkdir(parents=True, exist_ok=True)
    report = results / "report.xml"
    report.unlink(missing_ok=True)
    with subprocess.Popen(
        [sys.executable, *_pytest(report)], stdout=subprocess.PIPE, text=True, cwd=machine.REPO
    ) as running:
        assert running.stdout
        for line in running.stdout:
            hear(line.rstrip())
    return _read(os.uname().release, report)


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
    chosen = [] if kernel.suite == COMPILES else [f"--ignore={SUITE}/test_source_refusals.py"]
    try:
        machine.run(
            kernel,
            ["env", *words, sys.executable, *_pytest(report, *chosen), "-p", "pytest_timeout"],
            results,
            seconds=GUEST_SECONDS,
            hear=hear,
        )
    except machine.GuestError as error:
        return Report(kernel.release, 0, (), str(error))
    return _read(kernel.release, report)


def _pytest(report: Path, *chosen: str) -> list[str]:
    limits = ["-o", f"timeout={PATIENCE}"]
    return ["-m", "pytest", "-v", "-p", "no:cacheprovider", *limits, f"--junit-xml={report}", *chosen, SUITE]


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

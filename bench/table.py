"""Rows of the result, and how they are shown."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. Durations are in milliseconds."""

    what: str
    measured: str
    floor: str = "-"
    ratio: float | None = None
    target: str = "-"
    met: bool | None = None
    """None for a row that only informs."""


def against_floor(what: str, floor: Sequence[float], measured: Sequence[float], limit: float | None) -> Row:
    """A row of two medians whose ratio counts; without a limit it only informs."""
    low, high = median(floor), median(measured)
    ratio = high / low
    return Row(
        what=what,
        floor=milliseconds(low),
        measured=milliseconds(high),
        ratio=ratio,
        target="-" if limit is None else f"{limit:g} x",
        met=None if limit is None else ratio <= limit,
    )


def below(what: str, value: float, limit: float, unit: str = "ms", floor: float | None = None) -> Row:
    """A row whose value itself counts."""
    return Row(
        what=what,
        floor="-" if floor is None else f"{floor:.2f} {unit}",
        measured=f"{value:.2f} {unit}",
        ratio=None if floor is None else value / floor,
        target=f"< {limit:.4g} {unit}",
        met=value < limit,
    )


def milliseconds(value: float) -> str:
    """A duration as the table shows it."""
    return f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms"


def show(rows: Sequence[Row]) -> None:
    """Print the table and the machine it is of."""
    table = Table()
    for title in ("what", "floor", "measured", "ratio", "target", "verdict"):
        table.add_column(title, justify="left" if title in ("what", "verdict") else "right")
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f} x"
        verdict = {None: "-", True: "[green]reached[/]", False: "[red]missed[/]"}[row.met]
        table.add_row(row.what, row.floor, row.measured, ratio, row.target, verdict)
    # Wide enough for every row also where the output is a file.
    console = Console()
    console = console if console.is_terminal else Console(width=150)
    console.print(table)
    console.print(
        f"Linux {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}; medians",
        highlight=False,
    )

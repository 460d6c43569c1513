"""The command that shows how often programs run: top."""

# ruff: noqa: PLC0415  # rich is for terminals

import gc
import time
from collections.abc import Callable
from typing import Any, Final

import click

from bpflinkd.cli import documents, words
from bpflinkd.cli.group import Command
from bpflinkd.cli.kinds import NAME
from bpflinkd.cli.render import STATE_STYLES, Column, Output
from bpflinkd.cli.settings import Settings
from bpflinkd.client import Client, NotAllowed
from bpflinkd.client.values import LinkStatistics, Statistics
from bpflinkd.core.runs import Rate, RunCounts, rates

_MICROS: Final = 1_000_000
_SHORTEST: Final = 0.1
_LONGEST: Final = 3600.0
_KEEP: Final = 10.0
"""Seconds for which runs are counted after the next question is due."""
_AROUND: Final = 4
"""Lines of a terminal that are no links: headline, titles, how many are not shown, and the cursor's."""
_COLUMNS: Final = (
    Column("NAME", cut="end"),
    Column("TARGET", cut="middle"),
    Column("STATE", styles=STATE_STYLES),
    Column("GEN", right=True),
    Column("PROGRAM", cut="end"),
    Column("RUNS/S", right=True),
    Column("NS/RUN", right=True),
    Column("CPU%", right=True),
    Column("MISSED/S", right=True),
    Column("RUNS", right=True),
)
_HELP = """Show how often the programs of all links run, or of those named, and how long; until Ctrl-C.

The busiest comes first. CPU% is of one processor. While this runs, the kernel counts runs, which costs each
run of each program of the host some nanoseconds. That is for administrators and owners of links; others see
what is counted for somebody else.

\b
Examples:
  bpflinkctl top
  bpflinkctl top edge-filter --interval 5
  bpflinkctl top --once --json | jq '.links[] | select(.runs_per_second > 100000) | .name'
"""


@click.command("top", cls=Command, help=_HELP, short_help="Show how often programs run.")
@click.argument("names", metavar="[NAME]...", type=NAME, nargs=-1)
@click.option("--once", is_flag=True, help="Show one interval and end.")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(_SHORTEST, _LONGEST),
    default=1.0,
    help="From one reading to the next, 0.1 to 3600.  [default: 1]",
)
@click.pass_obj
def top_command(settings: Settings, names: tuple[str, ...], once: bool, interval: float) -> None:
    """See `_HELP`."""
    # It may run for days.
    gc.enable()
    client, output = settings.client(), settings.output()
    keep = interval + _KEEP
    first, counted = _first(client, keep)
    for name in names:
        if all(link["name"] != name for link in first.links):
            client.link(name)  # says so where there is no such link

    def show_all(show: Callable[[documents.Document], None]) -> None:
        before = first
        while True:
            time.sleep(interval)
            after = client.statistics(keep=keep if counted else None)
            show(document(before, after, names))
            if once:
                return
            before = after

    try:
        if output.json:
            show_all(output.document if once else output.document_line)
        elif output.terminal and not once:
            _live(output, show_all)
        else:
            show_all(lambda reading: _print(output, reading, ends=once))
    except KeyboardInterrupt:
        return


def _first(client: Client, keep: float) -> tuple[Statistics, bool]:
    """A first reading, and whether runs are counted for us."""
    try:
        return client.statistics(keep=keep), True
    except NotAllowed:
        return client.statistics(), False


# Documents


def document(before: Statistics, after: Statistics, names: tuple[str, ...] = ()) -> documents.Document:
    """What happened between two readings: the busiest link first."""
    seconds = (after.at - before.at) / _MICROS
    found = rates(_counts(before), _counts(after), seconds)
    if not after.counting:
        found = dict.fromkeys(found)
    links = [_link(link, found[link["name"]]) for link in after.links if not names or link["name"] in names]
    links.sort(key=lambda link: (-(link["cpu"] or 0), -(link["time"] or 0), link["name"]))
    return {
        "time": time.time_ns() // 1000,
        "seconds": seconds,
        "counting": after.counting,
        "reason": after.reason,
        "links": links,
    }


def _counts(reading: Statistics) -> dict[str, RunCounts | None]:
    return {link["name"]: _of(link) for link in reading.links}


def _of(link: LinkStatistics) -> RunCounts | None:
    if "counted" not in link:
        return None
    missed = link.get("missed", 0) + link.get("suppressed", 0)
    return RunCounts(link["counted"], link["runs"], link["time"], missed)


def _link(link: LinkStatistics, rate: Rate | None) -> documents.Document:
    return {
        "name": link["name"],
        "target": documents.target(link["target"]),
        "state": link["state"],
        "generation": link["generation"],
        "program": documents.program(link["program"]),
        "counted": link.get("counted"),
        "runs": link.get("runs"),
        "time": link.get("time"),
        "missed": link.get("missed"),
        "suppressed": link.get("suppressed"),
        "runs_per_second": rate.runs if rate else None,
        "nanoseconds_per_run": rate.nanoseconds if rate else None,
        "cpu": rate.share if rate else None,
        "missed_per_second": rate.missed if rate and "missed" in link else None,
    }


# For people


def headline(reading: documents.Document) -> str:
    """All links in one line."""
    links = reading["links"]
    said = f"{words.clock(reading['time'])}  {len(links)} link{'' if len(links) == 1 else 's'}"
    if not reading["counting"]:
        return f"{said}; {reading['reason']}"
    runs, share = (sum(link[key] or 0 for link in links) for key in ("runs_per_second", "cpu"))
    return f"{said}, {runs:,.0f} runs/s, {100 * share:.2f}% of a processor"


def row(link: documents.Document) -> list[str]:
    """One link as text."""
    program, share = link["program"], link["cpu"]
    return [
        link["name"],
        words.document_target(link["target"]),
        link["state"],
        str(link["generation"]),
        words.program(program["name"], program["tag"]),
        _number(link["runs_per_second"]),
        _number(link["nanoseconds_per_run"]),
        "-" if share is None else f"{100 * share:.2f}",
        _number(link["missed_per_second"]),
        _number(link["runs"]),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _print(output: Output, reading: documents.Document, *, ends: bool) -> None:
    output.line(headline(reading))
    output.table(_COLUMNS, [row(link) for link in reading["links"]])
    if not ends:
        output.line()


def _live(output: Output, show_all: Callable[[Callable[[documents.Document], None]], None]) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    console = output.console()
    waiting = Text("the first interval is not over yet", style="dim")
    with Live(waiting, console=console, auto_refresh=False) as live:

        def show(reading: documents.Document) -> None:
            links = reading["links"]
            room = max(1, console.height - _AROUND)
            parts: list[Any] = [
                Text(words.clean(headline(reading)), no_wrap=True, overflow="ellipsis"),
                output.rich_table(_COLUMNS, [row(link) for link in links[:room]], console),
            ]
            if len(links) > room:
                parts.append(Text(f"and {len(links) - room} more that are less busy", style="dim"))
            live.update(Group(*parts), refresh=True)

        show_all(show)

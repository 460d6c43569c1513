"""The command that compares what two programs do with the same packets: diff."""

# ruff: noqa: PLC0415  # dpkt takes time to import

import time
from typing import TYPE_CHECKING, Any, Final

import click

from bpflinkd.cli import documents
from bpflinkd.cli.arguments import program, source_of, source_options
from bpflinkd.cli.captures import Capture
from bpflinkd.cli.check import FOUND
from bpflinkd.cli.group import Command
from bpflinkd.cli.kinds import NAME
from bpflinkd.cli.render import Column, Output
from bpflinkd.client.values import Compared

if TYPE_CHECKING:
    from bpflinkd.cli.settings import Settings

_SHOWN: Final = 100
_HELP: Final = """Run every packet of a capture through the program of the link NAME and through another one,
and show those that are treated otherwise. Both are loaded once more, with copies of what the live maps
hold: nothing that runs is touched. For XDP, and for ingress and egress of cgroups. Exits with 6 where
there is a difference.

\b
Examples:
  bpflinkctl diff edge-filter --object filter-v2.bpf.o --pcap monday.pcap
  bpflinkctl diff edge-filter --object filter-v2.bpf.o --pcap monday.pcap --json | jq .verdicts
"""
_ROWS: Final = (
    Column("PACKET", right=True),
    Column("TIME"),
    Column("WHAT", cut="end"),
    Column("RUNNING"),
    Column("NEW"),
)


@click.command("diff", cls=Command, help=_HELP, short_help="Compare programs by the packets of a capture.")
@click.argument("name", type=NAME)
@source_options
@click.option("--pcap", metavar="FILE", type=click.Path(), required=True, help="The capture: pcap or pcapng.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(0, 10_000),
    default=_SHOWN,
    help=f"How many packets to show.  [default: {_SHOWN}]",
)
@click.option("--force", is_flag=True, help="Also if another owns it. For administrators.")
@click.pass_context
def diff_command(context: click.Context, /, **given: Any) -> None:
    """See `_HELP`."""
    settings: Settings = context.obj
    source = program(source_of(given))
    name = given["name"]
    client = settings.client(doing=f"comparing what both programs do with the packets of {given['pcap']}")
    from bpflinkd.cli import captures

    kind = client.link(name)["Target"][0]
    with settings.waiting(f"reading {given['pcap']}"):
        capture = captures.read(given["pcap"], ethernet=kind == "xdp")
    packets = (packet.data for packet in capture.packets)
    found = client.review.compare(name, source, packets, limit=given["limit"], force=given["force"])
    output = settings.output()
    if output.json:
        output.document({"name": name, **_document(found, capture)})
    else:
        _tell(found, capture, output)
    if found["differing"]:
        context.exit(FOUND)


def _document(found: Compared, capture: Capture) -> documents.Document:
    from bpflinkd.cli.summaries import summary

    names = dict(found["names"])
    differences = [
        {
            "packet": number + 1,
            "time": capture.packets[number].time,
            "summary": summary(capture.packets[number].data),
            "running": _verdict(names, old),
            "new": _verdict(names, new),
            "altered": altered,
            "bytes": capture.packets[number].data.hex(),
        }
        for number, old, new, altered in found["differences"]
    ]
    return {
        "type": found["type"],
        "generation": found["generation"],
        "running": documents.program(found["running"]),
        "packets": found["packets"],
        "differing": found["differing"],
        "verdicts": [
            {"running": _verdict(names, old), "new": _verdict(names, new), "packets": count}
            for old, new, count in found["verdicts"]
        ],
        "differences": differences,
        "not_run": [{"reason": why, "packets": count} for why, count in found["not_run"]],
        "copied": found["copied"],
        "fresh": [{"program": whose, "map": name, "reason": why} for whose, name, why in found["fresh"]],
        "notes": capture.notes,
    }


def _verdict(names: dict[int, str], value: int) -> str:
    return names.get(value, str(value))


def _tell(found: Compared, capture: Capture, output: Output) -> None:
    from bpflinkd.cli.summaries import summary

    names = dict(found["names"])
    rows = []
    for number, old, new, altered in found["differences"]:
        packet = capture.packets[number]
        after = _verdict(names, new) + (", another packet" if altered else "")
        rows.append([str(number + 1), _time(packet.time), summary(packet.data), _verdict(names, old), after])
    if rows:
        output.table(_ROWS, rows)
        more = found["differing"] - len(rows)
        if more:
            output.line(f"and {more:,} more; --limit shows more of them")
        output.line()
    tried = found["packets"] - sum(count for _, count in found["not_run"])
    are = "is" if found["differing"] == 1 else "are"
    output.line(f"{tried:,} packets were tried; {found['differing']:,} {are} treated otherwise")
    for old, new, count in found["verdicts"]:
        changed = "" if old == new else f" -> {_verdict(names, new)}"
        output.line(f"  {count:>9,}  {_verdict(names, old)}{changed}")
    same = found["differing"] - sum(count for old, new, count in found["verdicts"] if old != new)
    if same:
        output.line(f"  {same:>9,}  the same verdict, and another packet comes out")
    for why, count in found["not_run"]:
        output.line(f"  {count:>9,}  not tried: {why}")
    if found["copied"]:
        output.line(f"copied from the live maps: {', '.join(found['copied'])}")
    fates: dict[tuple[str, str], list[str]] = {}
    for whose, name, why in found["fresh"]:
        fates.setdefault((name, why), []).append(whose)
    for (name, why), programs in fates.items():
        of = "" if len(programs) > 1 else f" of the {programs[0]} program"
        output.line(f"map {name}{of}: {why}")
    for note in capture.notes:
        output.line(f"note: {note}")


def _time(micros: int) -> str:
    """Local time of day, with microseconds."""
    seconds, rest = divmod(micros, 1_000_000)
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{rest:06}"

"""The command that tells what would become of an attach or a replace: check."""

from typing import TYPE_CHECKING, Any, Final

import click

from bpflinkd.cli import documents, words
from bpflinkd.cli.arguments import program, source_of, source_options, target
from bpflinkd.cli.group import Command
from bpflinkd.cli.kinds import NAME, Text
from bpflinkd.cli.options import map_options
from bpflinkd.cli.render import Column, Output
from bpflinkd.client.values import Checked
from bpflinkd.core.targets import XdpMode

if TYPE_CHECKING:
    from bpflinkd.cli.settings import Settings

FOUND: Final = 6
"""The exit code where something stands in the way, or packets are treated otherwise."""
_HELP: Final = """Tell what would become of attaching a program to TARGET, or with --link of replacing that of
a link. It is loaded as for that, looked at, run on packets that are made up, and unloaded: nothing is
attached. Exits with 6 where the attach or replace would be refused at the target, or for its maps.

\b
Examples:
  bpflinkctl check xdp:eth0 --object filter.bpf.o
  bpflinkctl check --link edge-filter --object filter-v2.bpf.o
  bpflinkctl check cgroup:/web.slice --object count.bpf.o --program count_egress --log
"""
_MAPS: Final = (
    Column("MAP", cut="end"),
    Column("TYPE"),
    Column("KEY", right=True),
    Column("VALUE", right=True),
    Column("ENTRIES", right=True),
    Column("MEMORY", right=True),
)


@click.command("check", cls=Command, help=_HELP, short_help="Tell what an attach or replace would do.")
@click.argument("target", metavar="[TARGET]", required=False, type=Text("targets"))
@source_options
@click.option("--link", metavar="NAME", type=NAME, help="The link whose program would be replaced.")
@click.option("--mode", type=click.Choice(list(map(str, XdpMode))), help="As for attach.")
@click.option("--attach-type", metavar="TYPE", type=Text("attach_types"), help="As for attach.")
@map_options
@click.option("--log", is_flag=True, help="Show all that the verifier wrote.")
@click.pass_context
def check_command(context: click.Context, /, **given: Any) -> None:
    """See `_HELP`."""
    settings: Settings = context.obj
    if given["target"] is None and given["link"] is None:
        raise click.UsageError("give a TARGET, or --link with the name of a link.")
    if (given["maps"] or given["fresh_maps"]) and given["link"] is None:
        raise click.UsageError("--map and --fresh-maps are about the maps of a --link.")
    text = given["target"]
    where = target(text, given["mode"], given["attach_type"]) if text is not None else None
    source, whole = program(source_of(given)), given["log"]
    review = settings.client(doing="checking the program").review
    report = review.check(
        where,
        source,
        link=given["link"],
        log=whole,
        maps=dict(given["maps"]),
        fresh_maps=given["fresh_maps"],
    )
    output = settings.output()
    if output.json:
        output.document(_document(report))
    else:
        _tell(report, output)
        if whole:
            output.line()
            output.line("The verifier wrote:" if report["log"] else "The verifier wrote nothing.")
            for line in report["log"].expandtabs().splitlines():
                output.line(line)
    if report["obstacle"] or not all(can for _, can, _ in report["features"]):
        context.exit(FOUND)


def _document(report: Checked) -> documents.Document:
    told: documents.Document = {
        **report,
        "target": documents.target(report["target"]),
        "program": documents.program(report["program"]),
        "features": {name: {"supported": can, "reason": why} for name, can, why in report["features"]},
        "refusal": report["refusal"] or None,
        "running": documents.program(report["running"]) if "running" in report else None,
        "generation": report.get("generation"),
    }
    return told


def _tell(report: Checked, output: Output) -> None:
    _, name, tag, kind = report["program"]
    place = words.target(report["target"])
    of_maps = report["refusal"] == "IncompatibleMaps"
    pairs = [
        ("Program", f"{name or '(unnamed)'}, tag {tag}, type {kind}, attach type {report['attach_type']}"),
        ("Target", (not of_maps and report["obstacle"]) or f"{place}: {_welcome(report)}"),
        *(("Needs", f"{feature}: {why or 'there'}") for feature, _, why in report["features"]),
        ("Instructions", _instructions(report)),
        (
            "Memory",
            f"{words.size(report['memory'])}, of it {words.size(report['program_memory'])} the program",
        ),
    ]
    if "running" in report:
        running = words.full_program(report["running"])
        pairs.insert(1, ("Instead of", f"generation {report['generation']}, {running}"))
    pairs += [
        ("Test run", f"{test['packet']}: {test['verdict']}, {test['nanoseconds']} ns")
        for test in report["tests"]
    ]
    if report["not_tested"]:
        pairs.append(("Test run", f"none: {report['not_tested']}"))
    if of_maps:
        pairs.append(("Maps", report["obstacle"]))
    output.fields(pairs)
    if report["maps"]:
        output.line()
        instead = "running" in report
        output.table(
            (*_MAPS, Column("BEGINS")) if instead else _MAPS,
            [[*_row(each), *([_begins(each, report)] if instead else [])] for each in report["maps"]],
        )


def _row(each: dict[str, Any]) -> list[str]:
    numbers = (f"{each[key]:,}" for key in ("key_size", "value_size", "max_entries"))
    return [each["name"], each["type"], *numbers, words.size(each["memory"])]


def _begins(each: dict[str, Any], report: Checked) -> str:
    """With what is in it."""
    if each["kept"]:
        return "as it is"
    different = any(line.startswith(f"map {each['name']!r}: ") for line in report["compatibility"])
    return "cannot be kept" if different else "anew"


def _welcome(report: Checked) -> str:
    return "the program fits" if "running" in report else "there, and free for it"


def _instructions(report: Checked) -> str:
    looked = f"{report['verified']:,} looked at by the verifier, " if report["verified"] else ""
    return f"{looked}{report['translated']:,} bytes, {report['jited']:,} as machine code"

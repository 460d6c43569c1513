"""The commands about generations: history, rollback, confirm."""

# ruff: noqa: PLC0415  # documents are for JSON

from typing import Any, Final

import click

from bpflinkd.cli import words
from bpflinkd.cli.group import Command
from bpflinkd.cli.kinds import GENERATION, NAME
from bpflinkd.cli.options import after_a_swap, expect, force, map_options, message, trial_options
from bpflinkd.cli.render import Column
from bpflinkd.cli.settings import Settings
from bpflinkd.client.programs import Generation
from bpflinkd.client.values import Past

_HISTORY_HELP = """Show the generations of the link NAME that are kept, the newest first.

WAY BACK is what `bpflinkctl rollback` does to go there: swap to a program that is loaded still, or load it
again from the file that bpflinkd keeps.

\b
Example:
  bpflinkctl history edge-filter
"""
_ROLLBACK_HELP = """Let a generation of the link NAME from before run again, with its maps: one atomic swap.

Without GENERATION it is the one before the present one. It becomes a new generation, so a rollback can be
rolled back as well. While a generation is on trial, a rollback ends the trial.

\b
Examples:
  bpflinkctl rollback edge-filter
  bpflinkctl rollback edge-filter 3 -m "v4 drops DNS"
"""
_CONFIRM_HELP = """Keep the generation of each link NAME that is on trial (`replace --confirm-within`).

\b
Example:
  bpflinkctl confirm edge-filter
"""
_OUTCOMES: Final = {"running": "green", "trial": "yellow", "rolled-back": "red", "expired": "red"}
_COLUMNS: Final = (
    Column("GEN", right=True),
    Column("OUTCOME", styles=_OUTCOMES),
    Column("PROGRAM"),
    Column("SOURCE"),
    Column("SINCE"),
    Column("BY", cut="end"),
    Column("WAY BACK"),
    Column("MESSAGE", cut="end"),
)


@click.command("history", cls=Command, help=_HISTORY_HELP, short_help="Show a link's generations.")
@click.argument("name", type=NAME)
@click.pass_obj
def history_command(settings: Settings, name: str) -> None:
    """See `_HISTORY_HELP`."""
    found = settings.client().history(name)
    output = settings.output()
    if output.json:
        from bpflinkd.cli import documents

        output.document({"name": name, "generations": [documents.past(each) for each in found]})
    else:
        output.table(_COLUMNS, [_row(each) for each in reversed(found)])


def _row(past: Past) -> list[str]:
    _, program, tag, _ = past["program"]
    kind, detail = past["source"]
    uid, _, unit, _ = past["by"]
    again = f"back to {past['of']}" if "of" in past else ""
    constants = ", ".join(f"{name}={value}" for name, value in past.get("constants", {}).items())
    told = filter(None, (again, past["message"], constants))
    return [
        str(past["generation"]),
        past["outcome"],
        words.program(program, tag),
        f"{kind} {detail[:12] if kind in ('object', 'source') else detail}".rstrip(),
        words.moment(past["since"]),
        unit or words.owner(uid),
        past["way_back"] or "-",
        "; ".join(told) or "-",
    ]


@click.command("rollback", cls=Command, help=_ROLLBACK_HELP, short_help="Go back to a generation before.")
@click.argument("name", type=NAME)
@click.argument("generation", type=GENERATION, required=False)
@expect
@map_options
@trial_options
@message
@force
@click.pass_obj
def rollback_command(settings: Settings, /, name: str, generation: int | None, **given: Any) -> None:
    """See `_ROLLBACK_HELP`."""
    after_a_swap(settings, name, Generation(generation), given)


@click.command("confirm", cls=Command, help=_CONFIRM_HELP, short_help="Keep a generation on trial.")
@click.argument("names", metavar="NAME...", type=NAME, nargs=-1, required=True)
@click.pass_obj
def confirm_command(settings: Settings, names: tuple[str, ...]) -> None:
    """See `_CONFIRM_HELP`."""
    client, output = settings.client(), settings.output()
    for name in names:
        client.confirm(name)
        if not output.json:
            output.line(f"{name} is confirmed")
    if output.json:
        output.document({"confirmed": list(names)})

"""The command that says who changed a link: blame."""

from typing import Any, Final

import click

from bpflinkd.cli import documents, words
from bpflinkd.cli.follow import program
from bpflinkd.cli.group import Command
from bpflinkd.cli.kinds import EVENTS, FOREIGN, NAME
from bpflinkd.cli.render import Column
from bpflinkd.cli.settings import Settings

_CHANGES: Final = tuple(event for event in EVENTS if event != "state_changed")
"""A change of state is what follows from one of these."""
_COLUMNS: Final = (
    Column("TIME"),
    Column("WHAT", styles=dict.fromkeys((*FOREIGN, "owner overridden", "healed"), "yellow")),
    Column("WHO", cut="end"),
    Column("PROGRAM", cut="middle"),
)
_HELP = """Show who changed the link NAME last: its owner, administrators, and others past bpflinkd.

Works for a link that is gone as well. For its owner, and for administrators.

\b
Examples:
  bpflinkctl blame edge-filter
  bpflinkctl blame edge-filter -n 100 --json | jq '.events[] | select(.event == "foreign_change") | .who'
"""


@click.command("blame", cls=Command, help=_HELP, short_help="Show who changed a link.")
@click.argument("name", type=NAME)
@click.option(
    "-n", "number", metavar="N", type=click.IntRange(1, 200), default=20, help="How many.  [default: 20]"
)
@click.pass_obj
def blame_command(settings: Settings, name: str, number: int) -> None:
    """See `_HELP`."""
    client, output = settings.client(), settings.output()
    found = [documents.recorded(each) for each in client.log.newest([name], kinds=_CHANGES, limit=number)]
    if not found:
        client.link(name)  # says so where there never was such a link
    if output.json:
        output.document({"name": name, "events": found})
    elif not found and output.terminal:
        output.line(f"Nothing is known of changes to {name}: the event log has none.")
    else:
        output.table(_COLUMNS, [_row(event) for event in found])


def _row(event: dict[str, Any]) -> list[str]:
    return [
        words.moment(event["time"]),
        event.get("kind") or event["event"].replace("_", " "),
        words.who(event["who"]) if event["who"] else _why(event),
        f"{program(event['before'])} -> {program(event['after'])}",
    ]


def _why(event: dict[str, Any]) -> str:
    """In words, where no process is known: who removed a link, or what is said of it now."""
    return event.get("reason") or event.get("sentence") or "-"

"""The command that watches: events."""

import gc
import time
from typing import Any

import click

from bpflinkd.cli import documents, words
from bpflinkd.cli.group import Command
from bpflinkd.cli.render import STATE_STYLES
from bpflinkd.cli.settings import Settings
from bpflinkd.client.values import Event

_HELP = """Follow what happens to the links until Ctrl-C.

\b
Examples:
  bpflinkctl events
  bpflinkctl events --json | jq 'select(.event == "foreign_change")'
"""


@click.command("events", cls=Command, help=_HELP, short_help="Follow what happens.")
@click.pass_obj
def events_command(settings: Settings) -> None:
    """See `_HELP`."""
    # Unlike every other command this one may run for months.
    gc.enable()
    output = settings.output()

    def tell(happened: Event) -> None:
        now = time.time_ns() // 1000
        event = documents.event(happened, now)
        if output.json:
            output.document_line(event)
            return
        sentence, style = describe(event)
        output.line((words.clock(now), "dim"), "  ", (happened.link, "bold"), "  ", (sentence, style))

    try:
        settings.client().follow(tell)
    except KeyboardInterrupt:
        return


def describe(event: dict[str, Any]) -> tuple[str, str]:
    """An event in words, and the style of its state."""
    match event:
        case {"event": "link_added"}:
            return "added", ""
        case {"event": "link_removed", "reason": reason}:
            return f"removed: {reason}" if reason else "removed", ""
        case {"event": "program_replaced", "generation": generation, "old": old, "new": new}:
            swap = f"{_program(old)} -> {_program(new)}"
            return f"replaced: generation {generation}, {swap}", ""
        case {"event": "state_changed", "state": state, "old_state": old_state, "reason": reason}:
            change = f"{old_state} -> {state}" if old_state != state else state
            return change + (f": {reason}" if reason else ""), STATE_STYLES.get(state, "")
        case {"event": "foreign_change", "kind": kind, "sentence": sentence, "source": source}:
            return f"{kind}: {sentence} (noticed by {source})", "yellow"
    return f"{event['event']}: {event.get('arguments', '')}", ""


def _program(program: dict[str, Any]) -> str:
    return words.program(program["name"], program["tag"])

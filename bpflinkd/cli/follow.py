"""The command that tells what happens: events."""

# ruff: noqa: PLC0415  # most names are right

import gc
import time
from collections.abc import Callable
from typing import Any

import click

from bpflinkd.cli import documents, words
from bpflinkd.cli.group import Command
from bpflinkd.cli.kinds import EVENTS, FOREIGN, NAME, Moment
from bpflinkd.cli.render import STATE_STYLES, Output
from bpflinkd.cli.settings import Settings
from bpflinkd.client.values import Event, Recorded

_HELP = """Follow what happens to the links, or to those named, until Ctrl-C.

With --since it begins with what the event log has since then, and misses nothing in between. The log is for
administrators, and for the owner of the links that are named.

\b
WHEN is one of: 10m, 2h, 1d; 2026-05-01, '2026-05-01 14:30'; boot.

\b
Examples:
  bpflinkctl events
  bpflinkctl events edge-filter --since 1h
  bpflinkctl events --since boot --no-follow --kind foreign_change
  bpflinkctl events --json | jq 'select(.event == "foreign_change")'
"""


@click.command("events", cls=Command, help=_HELP, short_help="Tell what happens, and what happened.")
@click.argument("names", metavar="[NAME]...", type=NAME, nargs=-1)
@click.option("--since", metavar="WHEN", type=Moment(), help="Begin with what happened since then.")
@click.option("--no-follow", is_flag=True, help="End after what happened so far.")
@click.option(
    "--kind",
    "kinds",
    metavar="KIND",
    multiple=True,
    type=click.Choice([*EVENTS, *FOREIGN]),
    help="Only this: an event such as program_replaced, or a foreign change such as link-updated. "
    "May be given several times.",
)
@click.pass_obj
def events_command(
    settings: Settings, names: tuple[str, ...], since: int | None, no_follow: bool, kinds: tuple[str, ...]
) -> None:
    """See `_HELP`."""
    # Unlike every other command this one may run for months.
    gc.enable()
    output = settings.output()

    def happened(event: Event) -> None:
        if names and event.link not in names:
            return
        now = time.time_ns() // 1000
        document = documents.event(event, now)
        if not kinds or {document["event"], document.get("kind")} & {*kinds}:
            _tell(output, document, words.clock)

    def recorded(entry: Recorded) -> None:
        _tell(output, documents.recorded(entry), words.moment)

    client = settings.client()
    which = names or None
    if names and not output.json:
        _note_missing(names, [row.name for row in client.rows()])
    try:
        if no_follow:
            for entry in client.log.entries(which, kinds=kinds, since=since or 0):
                recorded(entry)
        elif since is None:
            client.follow(happened)
        else:
            client.log.follow(recorded, which, kinds=kinds, since=since)
    except KeyboardInterrupt:
        return


def _note_missing(names: tuple[str, ...], there: list[str]) -> None:
    """A link may be gone, or yet to be made; or its name was mistyped."""
    for name in names:
        if name in there:
            continue
        import difflib

        near = difflib.get_close_matches(name, there, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        click.echo(f"bpflinkctl: there is no link '{words.clean(name)}' now{hint}", err=True)


def _tell(output: Output, event: documents.Document, when: Callable[[int], str]) -> None:
    if output.json:
        output.document_line(event)
        return
    sentence, style = describe(event)
    output.line((when(event["time"]), "dim"), "  ", (event["name"], "bold"), "  ", (sentence, style))


def describe(event: dict[str, Any]) -> tuple[str, str]:
    """An event in words, and the style of its state."""
    who = f", by {words.who(event['who'])}" if event.get("who") else ""
    match event:
        case {"event": "link_added"}:
            return f"added{who}", ""
        case {"event": "link_removed", "reason": reason}:
            return f"removed: {reason}" if reason else "removed", ""
        case {"event": "program_replaced", "generation": generation, "old": old, "new": new}:
            swap = f"{program(old)} -> {program(new)}"
            why = f": {event['message']}" if event.get("message") else ""
            return f"replaced: generation {generation}, {swap}{who}{why}", ""
        case {"event": "state_changed", "state": state, "old_state": old_state, "reason": reason}:
            change = f"{old_state} -> {state}" if old_state != state else state
            return change + (f": {reason}" if reason else ""), STATE_STYLES.get(state, "")
        case {"event": "foreign_change", "kind": kind, "sentence": sentence, "source": source}:
            delay = event.get("delay")
            late = f" after {words.milliseconds(delay)}" if delay is not None else ""
            return f"{kind}: {sentence}{who} (noticed by {source}{late})", "yellow"
        case {"event": "link_amended" | "owner_overridden" | "healed" as kind, "sentence": sentence}:
            return f"{kind.replace('_', ' ')}: {sentence}{who}", "yellow" if kind != "link_amended" else ""
    return f"{event['event']}: {event.get('arguments', '')}", ""


def program(value: dict[str, Any] | None) -> str:
    """A program from its document."""
    return words.program(value["name"], value["tag"]) if value else "none"

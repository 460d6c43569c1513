"""The command that looks for what is wrong on the host: doctor."""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from bpflinkd.cli.group import Command
from bpflinkd.cli.render import Output
from bpflinkd.client.values import Finding

if TYPE_CHECKING:
    from bpflinkd.cli.settings import Settings

FOUND: Final = 5
"""The exit code where there is a fault or a warning."""
_STYLES: Final = {"fault": "bold red", "warning": "yellow", "note": "dim"}
_HELP: Final = """Look for what is wrong on this host, or may become so; the worst first, with the commands
that mend it. Changes nothing. For administrators. Exits with 5 where there is a fault or a warning.

\b
Examples:
  bpflinkctl doctor
  bpflinkctl doctor --json | jq -r '.findings[] | select(.level == "fault") | .what'
"""


@click.command("doctor", cls=Command, help=_HELP, short_help="Look for what is wrong on this host.")
@click.pass_context
def doctor_command(context: click.Context) -> None:
    """See `_HELP`."""
    settings: Settings = context.obj
    findings = settings.client(doing="looking at all that is attached on this host").doctor()
    output = settings.output()
    if output.json:
        output.document({"findings": [_document(finding, settings.bus) for finding in findings]})
    else:
        _tell(findings, settings.bus, output)
    if any(finding["level"] != "note" for finding in findings):
        context.exit(FOUND)


def _document(finding: Finding, bus: str) -> dict[str, Any]:
    return {**finding, "commands": [line(command, bus) for command in finding["commands"]]}


def line(command: Sequence[str], bus: str) -> str:
    """A command as a shell takes it. One of our own is for the daemon that gave it."""
    program, *words = command
    if program == "bpflinkctl" and bus != "system":
        words = ["--bus", bus, *words]
    return shlex.join([program, *words])


def _tell(findings: Iterable[Finding], bus: str, output: Output) -> None:
    counts: Counter[str] = Counter()
    for finding in findings:
        if counts and not counts[finding["level"]]:
            output.line()  # a group begins
        counts[finding["level"]] += 1
        where = f" {finding['where']}:" if finding["where"] else ""
        output.line((f"{finding['level']}:", _STYLES.get(finding["level"], "")), f"{where} {finding['what']}")
        if finding["advice"]:
            output.line(f"    {finding['advice']}")
        for command in finding["commands"]:
            output.line("        ", (line(command, bus), "bold"))
    if counts:
        output.line()
    told = [f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in _STYLES]
    output.line(", ".join(told))

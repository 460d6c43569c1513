"""The commands that look and change nothing: list, show, foreign, status."""

# ruff: noqa: PLC0415  # a table needs no documents

from collections.abc import Sequence
from typing import Any, Final

import click

from bpflinkd.cli import words
from bpflinkd.cli.group import Command
from bpflinkd.cli.kinds import NAME
from bpflinkd.cli.render import STATE_STYLES, Column
from bpflinkd.cli.settings import Settings
from bpflinkd.client.values import ManagerProperties, Row

_LIST_COLUMNS: Final = (
    Column("NAME", cut="end"),
    Column("TARGET", cut="middle"),
    Column("STATE", styles=STATE_STYLES),
    Column("OWNER", cut="end"),
    Column("GEN", right=True),
    Column("PROGRAM", cut="end"),
    Column("SINCE", right=True),
)
_FOREIGN_COLUMNS: Final = (
    Column("TARGET", cut="middle"),
    Column("PROGRAM", cut="end"),
    Column("ID", right=True),
    Column("TYPE", cut="end"),
    Column("LINK", right=True),
    Column("MODE"),
    Column("PROCESSES", cut="end"),
)

_LIST_HELP = """List every link: target, state, owner, generation, program (name and tag), and since when.

\b
Examples:
  bpflinkctl list
  bpflinkctl list --json | jq -r '.links[] | select(.state != "active") | .name'
"""
_SHOW_HELP = """Show everything about the link NAME.

\b
Example:
  bpflinkctl show edge-filter
"""
_FOREIGN_HELP = """List programs on the hooks of this host that bpflinkd did not attach. For root.

\b
Example:
  bpflinkctl foreign
"""
_STATUS_HELP = """Show the daemon: version, links by state, what this kernel can do, how others are noticed.

\b
Example:
  bpflinkctl status
"""


@click.command("list", cls=Command, help=_LIST_HELP, short_help="List every link.")
@click.pass_obj
def list_command(settings: Settings) -> None:
    """See `_LIST_HELP`."""
    client, output = settings.client(), settings.output()
    if output.json:
        from bpflinkd.cli import documents

        bpffs = client.status()["Paths"]["bpffs"]
        output.document({"links": [documents.link(link, bpffs) for link in client.links()]})
        return
    rows = client.rows()
    if not rows and output.terminal:
        output.line("No links. 'bpflinkctl attach --help' tells how to make one.")
    else:
        output.table(_LIST_COLUMNS, [_list_row(row) for row in rows])


def _list_row(row: Row) -> list[str]:
    return [
        row.name,
        row.target,
        row.state,
        words.short_owner(row.owner),
        str(row.generation),
        words.program(row.program, row.tag),
        words.age(row.state_since),
    ]


@click.command("show", cls=Command, help=_SHOW_HELP, short_help="Show everything about a link.")
@click.argument("name", type=NAME)
@click.pass_obj
def show_command(settings: Settings, name: str) -> None:
    """See `_SHOW_HELP`."""
    from bpflinkd.cli import documents

    client, output = settings.client(), settings.output()
    document = documents.link(client.link(name), client.status()["Paths"]["bpffs"])
    if output.json:
        output.document(document)
    else:
        output.fields(_show_fields(document))


def _show_fields(link: dict[str, Any]) -> list[tuple[str, str]]:
    running = link["running"]
    fields = [
        ("Name", link["name"]),
        ("State", f"{link['state']} since {words.when(link['state_since'])}"),
        ("Reason", link["reason"]),
        ("Target", _target(link["target"]) + (f", cookie {link['cookie']}" if link["cookie"] else "")),
        ("Owner", words.full_owner(link["owner"])),
        ("Policy", link["policy"]),
        ("Lifetime", link["lifetime"]),
        ("Held by", _hold(link["hold"])),
        ("Declared", _declared(link["origin"])),
        ("Created", words.when(link["created"])),
        ("Generation", f"{link['generation']} since {words.when(link['generation_since'])}"),
        ("  by", words.actor(link["by"])),
        ("  because", link["message"]),
        ("  on trial", _trial(link["trial"])),
        ("Program", _pairs(link["program"])),
        ("Source", _pairs(link["source"])),
    ]
    if running:
        held = [(process["pid"], process["comm"]) for process in running["processes"]]
        how = f"bpf_link {running['link_id']}" if running["link_id"] else "no bpf_link"
        mode = f", mode {running['mode']}" if running["mode"] else ""
        fields += [
            ("Running", _pairs(running["program"])),
            ("  attached by", how + mode),
            ("  held by", words.processes(held) or "no process that can be seen"),
        ]
    fields += [
        ("Kernel link", str(link["kernel_link_id"] or "-")),
        ("Hook", _hook(link["hook"] or {})),
        ("Missed", _missed(link)),
        ("Maps", ", ".join(link["maps"]) or "-"),
        ("Pins", link["pins"]),
    ]
    return [(label, value) for label, value in fields if value]


def _hold(hold: dict[str, Any] | None) -> str:
    """With which connection a link lives, and what comes after it."""
    if hold is None:
        return ""
    then = f"then {_pairs(hold['fallback'])}" if hold["fallback"] else "then the link ends"
    if hold["until"]:
        return f"nobody any more; it may be claimed until {words.moment(hold['until'])}, {then}"
    if not hold["holder"]:
        return "nobody any more; the fallback runs"
    grace = words.duration(hold["grace"])
    return f"connection {hold['holder']}; it may be claimed for {grace} after that, {then}"


def _trial(trial: dict[str, int] | None) -> str:
    """Until when a generation may be confirmed."""
    if trial is None:
        return ""
    return f"until {words.moment(trial['until'])}, then generation {trial['back_to']} is back"


def _declared(origin: dict[str, str] | None) -> str:
    if origin is None:
        return ""
    return origin["file"] + (f", by the template {origin['template']}" if origin["template"] else "")


def _target(target: dict[str, Any]) -> str:
    mode = f", mode {target['mode']}" if "mode" in target else ""
    return words.document_target(target) + mode


def _hook(hook: dict[str, int]) -> str:
    """What the target resolved to."""
    for kind, number in hook.items():
        if kind == "kernel":
            return "in the kernel itself"
        if kind.startswith("module "):
            return f"in {kind}, loading {number}"
        if kind == "functions":
            return f"{number} functions"
    return _pairs(hook)


def _missed(link: dict[str, Any]) -> str:
    """Only for kprobes, which alone have a slot that can be found empty."""
    is_kprobe = any("probe" in kind for kind in link["target"])
    if not is_kprobe:
        return ""
    return f"{link['missed']} hits found the slot empty, {link['suppressed']} were suppressed by the kernel"


def _pairs(value: dict[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {word}".rstrip() for key, word in value.items()) or "-"


@click.command("foreign", cls=Command, help=_FOREIGN_HELP, short_help="List programs that are not ours.")
@click.pass_obj
def foreign_command(settings: Settings) -> None:
    """See `_FOREIGN_HELP`."""
    found = settings.client().list_foreign()
    output = settings.output()
    if output.json:
        from bpflinkd.cli import documents

        output.document({"programs": [documents.foreign(entry) for entry in found]})
    elif not found and output.terminal:
        output.line("No foreign programs.")
    else:
        output.table(_FOREIGN_COLUMNS, [_foreign_row(entry) for entry in found])


def _foreign_row(entry: dict[str, Any]) -> list[str]:
    number, name, tag, kind = entry["program"]
    return [
        words.target(entry["target"]),
        words.program(name, tag),
        str(number),
        kind,
        str(entry.get("link_id") or "-"),
        entry.get("mode") or "-",
        words.processes(entry.get("processes", ())) or "-",
    ]


@click.command("status", cls=Command, help=_STATUS_HELP, short_help="Show the daemon.")
@click.pass_obj
def status_command(settings: Settings) -> None:
    """See `_STATUS_HELP`."""
    client, output = settings.client(), settings.output()
    status, features = client.status(), client.features()
    if output.json:
        from bpflinkd.cli import documents

        output.document(documents.status(status, features))
    else:
        output.fields(_status_fields(status, features))


def _status_fields(
    status: ManagerProperties, features: Sequence[tuple[str, bool, str]]
) -> list[tuple[str, str]]:
    states = status["States"]
    counts = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    fields = [
        ("Version", status["Version"]),
        ("Pid", str(status["Pid"])),
        ("Up", words.age(status["Started"])),
        ("Kernel", status["KernelRelease"]),
        ("Links", f"{sum(states.values())}" + (f": {counts}" if counts else "")),
    ]
    fields += [("Refused", sentence) for sentence in status["Refused"]]
    for name, source in sorted(status["WatchSources"].items()):
        live = "live" if source.get("live") else "NOT live"
        detail = f"; {source['detail']}" if source.get("detail") else ""
        fields.append((f"Watch {name}", f"{live}, {source.get('events', 0)} so far{detail}"))
    fields += [(f"Can {name}", "yes" if can else f"NO: {why}") for name, can, why in features]
    fields += [(f"Path {name}", path) for name, path in sorted(status["Paths"].items())]
    return fields

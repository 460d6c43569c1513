"""The commands between links and the files that declare them: reload, export."""

# ruff: noqa: PLC0415  # TOML is written by export alone

from pathlib import Path
from typing import Any, Final

import click

from bpflinkd.cli import words
from bpflinkd.cli.failures import REFUSED, InputError
from bpflinkd.cli.group import Command
from bpflinkd.cli.kinds import NAME
from bpflinkd.cli.settings import Settings
from bpflinkd.client.values import LinkProperties, ProgramFile
from bpflinkd.core.model import Lifetime

_RELOAD_HELP = """Apply what the files in links.d declare, as far as it is not so already.

Links that are as declared are not touched; a changed program is one atomic replace; links that are
declared no more are detached. What is refused is told with its file and line, and the rest is done.

\b
Example:
  bpflinkctl reload
"""
_EXPORT_HELP = """Print the TOML that would declare the link NAME in a file of links.d.

Its program is named by the hash under which bpflinkd on this host keeps the file. With --directory
the program's file is written beside the declaration, for use on any host.

\b
Examples:
  bpflinkctl export edge-filter > /etc/bpflinkd/links.d/edge-filter.toml
  bpflinkctl export edge-filter --directory ./out
"""
_ORDER: Final = ("attached", "replaced", "moved", "changed", "detached", "unchanged")


@click.command("reload", cls=Command, help=_RELOAD_HELP, short_help="Apply what links.d declares.")
@click.pass_obj
@click.pass_context
def reload_command(context: click.Context, settings: Settings) -> None:
    """See `_RELOAD_HELP`."""
    done, refused = settings.client(doing="bpflinkd applies what is declared").reload()
    output = settings.output()
    if output.json:
        output.document({"done": done, "refused": [one._asdict() for one in refused]})
    else:
        counts = ", ".join(f"{done[word]} {word}" for word in _ORDER if done.get(word))
        output.line(counts or "nothing is declared")
        for one in refused:
            click.echo(f"bpflinkctl: refused: {words.clean(one.sentence)}", err=True)
            for line in one.log.expandtabs().splitlines():
                click.echo(words.clean(line), err=True)
    if refused:
        context.exit(REFUSED)


@click.command("export", cls=Command, help=_EXPORT_HELP, short_help="Print a link as a declaration.")
@click.argument("name", type=NAME)
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help="Write NAME.toml and the program's file there instead.",
)
@click.pass_obj
def export_command(settings: Settings, name: str, directory: Path | None) -> None:
    """See `_EXPORT_HELP`."""
    client, output = settings.client(), settings.output()
    link = client.link(name)
    kind, detail = link["Source"]
    if kind not in ("object", "source", "pin", "builtin"):
        raise InputError(
            f"link {name!r} was given a loaded program ({kind} {detail}".rstrip()
            + "), which no file can name; replace it from an object, a source or a pin first"
        )
    file = client.program_file(name) if kind in ("object", "source") else None
    if directory is None:
        program = _kept(kind, detail, file)
        written: list[str] = []
    else:
        program, written = _written(directory, link, file)
    text = _declaration(link, program)
    if directory is not None:
        place = directory / f"{name}.toml"
        place.write_text(text)
        written.append(str(place))
    if output.json:
        output.document({"name": name, "toml": text, "written": written})
    elif directory is None:
        output.text(text)
    else:
        output.line(f"written: {', '.join(written)}")


def _kept(kind: str, detail: str, file: ProgramFile | None) -> dict[str, str]:
    if file is None:
        return {kind: detail}
    return {"kept" if kind == "object" else "kept-source": detail, "name": file.program}


def _written(
    directory: Path, link: LinkProperties, file: ProgramFile | None
) -> tuple[dict[str, str], list[str]]:
    """The program's file beside the declaration, named relative to it."""
    directory.mkdir(parents=True, exist_ok=True)
    if file is None:
        return _kept(*link["Source"], None), []
    place = directory / f"{link['Name']}{'.bpf.o' if file.kind == 'object' else '.c'}"
    place.write_bytes(file.data)
    return {file.kind: place.name, "name": file.program}, [str(place)]


def _declaration(link: LinkProperties, program: dict[str, str]) -> str:
    import tomlkit

    kind, _, detail = link["Target"]
    table: dict[str, Any] = {"name": link["Name"], "target": words.target(link["Target"])}
    if kind == "xdp" and detail != "auto":
        table["mode"] = detail
    if link["Kprobe"][0]:
        table["cookie"] = link["Kprobe"][0]
    named = tomlkit.inline_table()
    named.update(program)
    table |= {
        "program": named,
        "policy": link["Policy"],
        # A file has no connection that a link could live with.
        "lifetime": link["Lifetime"] if link["Lifetime"] != Lifetime.OWNER else Lifetime.PINNED.value,
        "owner": _owner(link["Owner"]),
    }
    return tomlkit.dumps({"link": [table]})


def _owner(text: str) -> Any:
    """As files have it: a user's name, a uid where it has none, or a unit."""
    import tomlkit

    kind, _, value = text.partition(":")
    if kind == "user":
        return words.user_name(int(value)) or int(value)
    named = tomlkit.inline_table()
    named[kind] = value
    return named

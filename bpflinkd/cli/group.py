"""The command tree. A command's module is imported when the command is run or shown."""

# ruff: noqa: PLC0415  # most runs make no typo

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

import bpflinkd
from bpflinkd.cli.kinds import Seconds, option_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bpflinkd.cli.settings import Settings

_COMMANDS: Final = {
    "attach": "change",
    "replace": "change",
    "apply": "apply",
    "rollback": "past",
    "confirm": "past",
    "detach": "change",
    "claim": "own",
    "transfer": "own",
    "adopt": "own",
    "reload": "declare",
    "export": "declare",
    "list": "read",
    "show": "read",
    "history": "past",
    "foreign": "read",
    "check": "check",
    "diff": "diff",
    "doctor": "doctor",
    "status": "read",
    "events": "follow",
    "blame": "blame",
    "top": "top",
    "config": "config",
}
"""The module of each command, in the order in which help shows them."""


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Put a global option, wherever it was given, where all commands look."""
    settings: Settings | None = context.obj
    if value and settings is not None and parameter.name:
        setattr(settings, parameter.name, value)


def _version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"bpflinkctl {bpflinkd.__version__}")
        context.exit()


def _global_options() -> list[click.Parameter]:
    """A fresh set for each command: they are accepted before and after the command's name."""
    return [
        click.Option(
            ["--bus"],
            metavar="system|session|ADDRESS",
            expose_value=False,
            callback=_keep,
            help="The bus that bpflinkd is on.  [default: system]",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_keep,
            help="Print one JSON document (events, top: one a line).",
        ),
        click.Option(
            ["--no-color"],
            is_flag=True,
            expose_value=False,
            callback=_keep,
            help="No colour, as the environment variable NO_COLOR.",
        ),
        click.Option(
            ["--timeout"],
            type=Seconds(),
            metavar="SECONDS",
            expose_value=False,
            callback=_keep,
            help="How long to wait for an answer.  [default: 30; to compile, or with --ask, 150]",
        ),
        click.Option(
            ["--ask"],
            is_flag=True,
            expose_value=False,
            callback=_keep,
            help="Let polkit ask for a password before it refuses.",
        ),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Show the version and exit.",
        ),
    ]


class _WithGlobals(click.Command):
    """A command that takes the global options too, and shows them apart from its own."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        keywords.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*arguments, **keywords)
        self._own = {parameter.name for parameter in self.params}
        self.params += _global_options()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Two sections; click's own would mix them."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            # Newer click has a record for arguments too; the usage line and the text speak of them.
            if record is not None and isinstance(parameter, click.Option):
                (own if parameter.name in self._own else shared).append(record)
        for title, records in (("Options", own), ("Global options", shared)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Command(_WithGlobals):
    """A command of bpflinkctl."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse its words. A program's file is often given without the option that it goes with."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            option = next(filter(None, map(option_for, words)), "")
            if not option or "extra argument" not in error.message or "object" not in self._own:
                raise
            raise click.UsageError(
                f"{error.message.rstrip('.')}; a program's file is given with {option}.", ctx
            ) from None


class Group(_WithGlobals, click.Group):
    """The commands, by name; a typo is answered with what was probably meant."""

    def __init__(self, *arguments: Any, modules: Mapping[str, str], **keywords: Any) -> None:
        """`modules` are the commands in the order of help, with the module of each."""
        super().__init__(*arguments, **keywords)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In the order of help."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the module of a command."""
        module = self._modules.get(cmd_name)
        if module is None:
            return None
        found: click.Command = getattr(import_module(f"bpflinkd.cli.{module}"), f"{cmd_name}_command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. Click before 8.2 has no suggestions for commands."""
        word = args[0]
        if word not in self._modules and not ctx.resilient_parsing and not word.startswith("-"):
            import difflib

            near = difflib.get_close_matches(word, self._modules, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Commands: {', '.join(self._modules)}."
            ctx.fail(f"No such command '{word}'. {hint}")
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options, then commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


_HELP: Final = """Attach BPF programs to interfaces and cgroups with bpflinkd, and see what becomes of them.

\b
Examples:
  bpflinkctl attach edge-filter xdp:eth0 --object filter.bpf.o
  bpflinkctl replace edge-filter --object filter-v2.bpf.o
  bpflinkctl list
  bpflinkctl show edge-filter --json

\b
Exit codes: 0 done, 1 refused or failed, 2 usage, 3 no daemon, 4 not allowed, 5 doctor found something,
6 check found an obstacle, or diff a difference.
"""


@click.command(name="bpflinkctl", cls=Group, modules=_COMMANDS, help=_HELP)
def bpflinkctl() -> None:
    """See `_HELP`."""

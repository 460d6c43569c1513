"""Options that commands which swap programs have in common, and what they do with them."""

# ruff: noqa: PLC0415  # few swaps are on trial

from collections.abc import Callable
from typing import Any, TypeVar

import click

from bpflinkd.cli.kinds import GENERATION, Duration, Pair, Text
from bpflinkd.cli.settings import Settings
from bpflinkd.client.programs import Program

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

force = click.option("--force", is_flag=True, help="Also if another owns it. For administrators.")
message = click.option("-m", "--message", metavar="TEXT", type=Text(), help="Why; the history keeps it.")
expect = click.option(
    "--expect", metavar="GENERATION", type=GENERATION, help="Refuse unless the link is at this generation."
)


def map_options(command: _Decorated) -> _Decorated:
    """Add what is said of maps."""
    fresh = click.option("--fresh-maps", is_flag=True, help="Begin with empty maps.")
    one = click.option(
        "--map",
        "maps",
        metavar="MAP=keep|fresh",
        type=Pair("keep", "fresh"),
        multiple=True,
        help="Go on using a map, or begin with an empty one. Repeatable.  [default: keep what fits]",
    )
    return one(fresh(command))


def trial_options(command: _Decorated) -> _Decorated:
    """Add what is said of a trial."""
    wait = click.option(
        "--wait/--no-wait",
        default=None,
        help="With --confirm-within: count down and ask.  [default: on a terminal]",
    )
    judge = click.option(
        "--confirm-if",
        metavar="CONDITION",
        type=Text(),
        multiple=True,
        help="Let bpflinkd judge: 'map:drops[0] < 10/s', 'interface:rx_dropped <= 5'. Repeatable.",
    )
    within = click.option(
        "--confirm-within",
        metavar="TIME",
        type=Duration(),
        help="Go back by itself unless `bpflinkctl confirm` comes in time, also after a crash or a reboot.",
    )
    return within(judge(wait(command)))


def after_a_swap(
    settings: Settings, name: str, program: Program, given: dict[str, Any], *, doing: str = ""
) -> None:
    """Swap a link's program as the options say, and tell what came of it."""
    within = given["confirm_within"]
    if given["wait"] is not None and within is None:
        raise click.UsageError("--wait and --no-wait go with --confirm-within only.")
    if given["confirm_if"] and within is None:
        raise click.UsageError("--confirm-if judges a trial; say with --confirm-within how long that lasts.")
    client = settings.client(doing=doing)
    generation = client.replace(
        name,
        program,
        expect=given["expect"],
        maps=dict(given["maps"]),
        fresh_maps=given["fresh_maps"],
        confirm_within=within,
        confirm_if=given["confirm_if"],
        message=given["message"],
        force=given["force"],
    )
    output = settings.output()
    if output.json:
        output.document_line({"name": name, "generation": generation})
    else:
        output.line(f"{name} runs generation {generation}" + (" on trial" if within is not None else ""))
    if within is not None:
        from bpflinkd.cli import trial

        trial.see_through(settings, client, name, generation, wait=given["wait"])

"""A generation on trial, on a terminal: counts down, and asks whether to keep it."""

import select
import sys
import time

from bpflinkd.cli.failures import InputError
from bpflinkd.cli.settings import Settings
from bpflinkd.client import Client, ClientError
from bpflinkd.client.programs import Generation
from bpflinkd.client.values import LinkProperties

_MICROS = 1_000_000
_BLINK = 1.0
"""Seconds between two looks."""


def see_through(settings: Settings, client: Client, name: str, generation: int, *, wait: bool | None) -> None:
    """Wait for the operator's answer, or for the time to be over, where somebody can answer.

    Args:
        wait: whether; None: where both ends are a terminal.

    Raises:
        InputError: the generation was not confirmed, and the one before is back.
    """
    answering = sys.stdin is not None and sys.stdin.isatty()
    output = settings.output()
    link = client.link(name)
    if not link["Trial"]:
        return  # it is over already
    hint = f"'bpflinkctl confirm {name}' keeps it"
    if wait is False or (wait is None and not (answering and output.terminal)) or output.json:
        if not output.json:
            seconds = link["Trial"]["within"] / _MICROS
            conditions = link["Trial"].get("conditions")
            how = " and ".join(conditions) if conditions else hint
            output.line(f"generation {link['Trial']['back_to']} is back in {seconds:g} s unless {how}")
        return
    deadline = time.monotonic() + max(0.0, link["Trial"]["until"] / _MICROS - time.time())
    answer = _ask(client, name, generation, link["Trial"]["back_to"], deadline, answering=answering)
    if answer == "keep":
        client.confirm(name)
        output.line(f"{name} is confirmed")
    elif answer == "back":
        output.line(f"{name} runs generation {client.replace(name, Generation())}, as before")
        raise InputError(f"generation {generation} was not kept")
    elif answer == "done":
        output.line(f"{name} is confirmed")
    else:
        why = client.link(name)["Message"] or "it was not confirmed in time"
        raise InputError(f"generation {generation} was not kept: {why}; {name} runs the one before again")


def _ask(
    client: Client, name: str, generation: int, back_to: int, deadline: float, *, answering: bool
) -> str:
    """`keep`, `back`, `over`, or `done` where somebody else has decided."""
    while True:
        left = deadline - time.monotonic()
        question = f"Keep generation {generation}? [y/N] " if answering else ""
        sys.stderr.write(
            f"\r\033[K{question}{max(0, round(left))} s left, then generation {back_to} is back "
        )
        sys.stderr.flush()
        if answering and select.select([sys.stdin], [], [], min(_BLINK, max(0.05, left)))[0]:
            line = sys.stdin.readline()
            sys.stderr.write("\r\033[K")
            return "keep" if line.strip().lower() in ("y", "yes") else "back"
        if not answering:
            time.sleep(min(_BLINK, max(0.05, left)))
        try:
            now = client.link(name)
        except ClientError:
            continue  # a daemon that starts again; the deadline holds
        if not _still(now, generation):
            sys.stderr.write("\r\033[K")
            return "done" if now["Generation"] == generation else "over"


def _still(link: LinkProperties, generation: int) -> bool:
    return link["Generation"] == generation and bool(link["Trial"])

"""Kinds of values on the command line, as click has them."""

# ruff: noqa: PLC0415  # completion is asked for by a shell only

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_DAY: Final = 86_400.0
_UNITS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_AGO: Final = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": _DAY, "w": 7 * _DAY}


class Seconds(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """A positive number of seconds."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse, or say what is accepted."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= _DAY:
            self.fail(f"{value!r} is not a number of seconds between 0 and {_DAY:.0f}.", param, ctx)
        return seconds


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """A span of time: a number, and behind it ms, s, min or h; without one, seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse to seconds, or say what is accepted."""
        if isinstance(value, float):
            return value
        word = str(value).strip()
        number = word.rstrip("abcdefghijklmnopqrstuvwxyz ")
        unit = word.removeprefix(number).strip() or "s"
        try:
            seconds = float(number) * _UNITS[unit]
        except (ValueError, KeyError):
            seconds = -1.0
        if not 0 <= seconds <= _DAY:
            self.fail(f"{value!r} is not a time such as 500ms, 10s or 2min, of a day at most.", param, ctx)
        return seconds


class Text(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """A string that can travel on the bus, which carries UTF-8 only."""

    name = "text"

    def __init__(self, suggestions: str = "") -> None:
        """`suggestions` is a function of the module suggest, for the shell's completion."""
        self._suggestions = suggestions

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse bytes that are not UTF-8: Python shows them as lone surrogates."""
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"{text.encode(errors='backslashreplace').decode()} is not valid UTF-8.", param, ctx)
        return text

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """What the shell offers."""
        from click.shell_completion import CompletionItem

        from bpflinkd.cli import suggest

        found = getattr(suggest, self._suggestions)(ctx, incomplete) if self._suggestions else []
        return [CompletionItem(word) for word in found if word.startswith(incomplete)]


class Pair(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """A name, an equals sign and a value."""

    name = "pair"

    def __init__(self, *values: str) -> None:
        """`values` are those that are taken; none for any."""
        self._values = values

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Parse, or say what is accepted."""
        if isinstance(value, tuple):
            return value
        name, equals, what = Text().convert(value, param, ctx).partition("=")
        shown = " or ".join(f"NAME={each}" for each in self._values) or "NAME=VALUE"
        if not name or not equals or (self._values and what not in self._values):
            self.fail(f"{value!r} is not of the form {shown}.", param, ctx)
        return name, what


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """A time: so long ago, such as 10m, 2h or 1d; a date, and a time of day behind it; or `boot`."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse to microseconds since 1970, or say what is accepted."""
        if isinstance(value, int):
            return value
        import time

        word = str(value).strip()
        if word == "boot":
            return _micros(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))
        number = word.rstrip("abcdefghijklmnopqrstuvwxyz ")
        try:
            ago = float(number) * _AGO[word.removeprefix(number).strip()]
            if ago >= 0:
                return _micros(time.time() - ago)
        except (ValueError, KeyError, OverflowError):
            pass
        from datetime import datetime

        try:
            # A date without a time zone means this machine's.
            return _micros(datetime.fromisoformat(word).timestamp())
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{value!r} is not a time such as 10m, 2h, 1d, 2026-05-01, '2026-05-01 14:30' or boot.",
                param,
                ctx,
            )

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """What the shell offers."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(word) for word in ("10m", "1h", "1d", "boot") if word.startswith(incomplete)]


def _micros(seconds: float) -> int:
    return max(0, int(seconds * 1_000_000))


GENERATION: Final = click.IntRange(1, 2**64 - 1)
NAME: Final = Text("link_names")
"""The name of a link that there is."""
OWNER: Final = Text("owners")
POLICY: Final = click.Choice(["alert", "restore", "yield"])
"""As `core.model.Policy` has them, which takes time to import."""
EVENTS: Final = (
    "link_added",
    "link_removed",
    "link_amended",
    "owner_overridden",
    "program_replaced",
    "state_changed",
    "foreign_change",
    "healed",
)
FOREIGN: Final = (
    "link-updated",
    "link-detached",
    "program-attached",
    "slot-changed",
    "slot-emptied",
    "target-gone",
    "target-back",
    "neighbour-added",
    "neighbour-removed",
    "pin-removed",
    "pin-replaced",
    "kprobes-disabled",
)
"""What happens, and what others do, as `core.chronicle.Event` and `core.events.ChangeKind` have them."""


def option_for(word: str) -> str:
    """The option with which a word is given that looks like a program's file; empty where it does not."""
    option = {".o": "--object", ".c": "--source"}.get(word[-2:], "")
    return f"{option} {word}" if option else ""

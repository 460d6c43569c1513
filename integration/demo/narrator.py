"""What the audience reads, on a terminal and in a CI log alike."""

import io
import os
import shlex
import signal
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from integration.demo.interrupts import Interrupts


class Verdict(StrEnum):
    """What became of a promise."""

    KEPT = "kept"
    BROKEN = "broken"
    NOT_REACHED = "not reached"


_INDENT: Final = "   "
_COLOURS: Final = {Verdict.KEPT: "green", Verdict.BROKEN: "red", Verdict.NOT_REACHED: "yellow"}


@dataclass(slots=True)
class Promise:
    """A promise, and what the demo measured of it."""

    words: str
    verdict: Verdict = Verdict.NOT_REACHED
    measured: str = ""


class Narrator:
    """Prints; a reader that goes away is not a failure, but there is nobody left to tell then."""

    def __init__(self, interrupts: Interrupts) -> None:
        """Print to standard output, whatever it is."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        self._console = Console(highlight=False)
        self._interrupts = interrupts
        self._alone = False

    def opening(self, sentence: str) -> None:
        """The first words."""
        self._print(Text("bpflinkd, the main job for real", style="bold"))
        self.tell(sentence)

    def chapter(self, number: int, title: str) -> None:
        """Begin a step."""
        self._print("")
        self._print(Text(f"{number}. {title}", style="bold cyan"))

    def tell(self, sentence: str) -> None:
        """A sentence of the story."""
        self._print(self._filled(sentence))

    def command(self, words: Sequence[str]) -> None:
        """A command line that is about to run."""
        self._verbatim(f"$ {shlex.join(words)}", "bold")

    def output(self, text: str, style: str = "") -> None:
        """What a command printed, as it is."""
        for line in text.splitlines():
            self._verbatim(f"  {line}".rstrip(), style)

    def kept(self, sentence: str) -> None:
        """The finding of a step."""
        told = self._filled(f"{Verdict.KEPT}: {sentence}")
        told.stylize("bold green", 0, len(_INDENT) + len(Verdict.KEPT) + 1)
        self._print(told)

    def failed(self, sentence: str) -> None:
        """Why the story ends here."""
        told = self._filled(sentence)
        told.stylize("red")
        self._print(told)

    def summary(self, promises: Sequence[Promise], seconds: float) -> None:
        """The table at the end."""
        table = Table(title=f"Promises, after {seconds:.1f} s", title_justify="left")
        table.add_column("promise")
        table.add_column("", no_wrap=True)
        table.add_column("measured")
        for promise in promises:
            verdict = Text(promise.verdict, style=_COLOURS[promise.verdict])
            table.add_row(promise.words, verdict, Text(promise.measured))
        self._print("")
        self._print(table)

    def _filled(self, sentence: str) -> Text:
        width = max(40, self._console.width)
        # Paths and names stay whole, to be copied.
        filled = textwrap.wrap(
            sentence,
            width,
            initial_indent=_INDENT,
            subsequent_indent=_INDENT,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return Text("\n".join(filled))

    def _verbatim(self, line: str, style: str) -> None:
        self._print(Text(f"{_INDENT}{line}", style=style), soft_wrap=True)

    def _print(self, thing: object, *, soft_wrap: bool = False) -> None:
        if self._alone:
            return
        try:
            self._console.print(thing, markup=False, soft_wrap=soft_wrap)
            sys.stdout.flush()
        except (OSError, SystemExit):  # rich makes a SystemExit of a broken pipe
            self._alone = True
            self._interrupts.note(signal.SIGHUP)
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())

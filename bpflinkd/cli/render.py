"""The one renderer. Through a pipe: plain text, nothing cut. On a terminal: rich, cut to its width."""

# ruff: noqa: PLC0415  # rich takes as long to import as all the rest; a pipe does without

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from bpflinkd.cli.words import clean

STATE_STYLES: Final = {
    "active": "green",
    "waiting": "yellow",
    "trial": "yellow",
    "displaced": "red",
    "tampered": "red",
    "severed": "red",
    "failed": "bold red",
}
_GAP: Final = 2
_NARROWEST: Final = 6
"""Columns that may be cut are not cut below this."""


class Column(NamedTuple):
    """A column of a table."""

    title: str
    cut: str = ""
    """Where a long value may be cut on a terminal: `end`, `middle`, or nowhere."""
    right: bool = False
    styles: dict[str, str] | None = None
    """A style for each value that has one."""


class Output:
    """Standard output, in the form that the user asked for and that it can take."""

    def __init__(self, *, json: bool = False, no_color: bool = False) -> None:
        self.json = json
        self._no_color = no_color
        self.terminal = sys.stdout is not None and sys.stdout.isatty()

    def document(self, value: Any) -> None:
        """One JSON document: on one line, unless a person reads it. Shown at once."""
        self._write(json.dumps(value, indent=2 if self.terminal else None) + "\n")
        self._flush()

    def document_line(self, value: Any) -> None:
        """One JSON document of many, on its own line, at once."""
        self._write(json.dumps(value) + "\n")
        self._flush()

    def line(self, *parts: tuple[str, str] | str) -> None:
        """One line of text; a part may have a style. Shown at once."""
        pairs = [(part, "") if isinstance(part, str) else part for part in parts]
        if self.terminal:
            from rich.text import Text

            text = Text.assemble(*((clean(words), style) for words, style in pairs))
            self.console().print(text, soft_wrap=True)
        else:
            self._write("".join(clean(words) for words, _ in pairs) + "\n")
        self._flush()

    def text(self, text: str) -> None:
        """Text as it is, for a file rather than for eyes."""
        self._write(text)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        """A row a line, whatever the values."""
        if self.terminal:
            console = self.console()
            console.print(self.rich_table(columns, rows, console))
        else:
            self._write(plain_table(columns, [[clean(cell) for cell in row] for row in rows]))
        self._flush()

    def fields(self, pairs: Sequence[tuple[str, str]]) -> None:
        """A label and a value a line."""
        if not self.terminal:
            width = max(len(label) for label, _ in pairs) + _GAP
            self._write("".join(f"{label:<{width}}{clean(value)}\n" for label, value in pairs))
            return
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, _GAP, 0, 0))
        grid.add_column(no_wrap=True, style="bold")
        grid.add_column(overflow="fold")
        for label, value in pairs:
            style = STATE_STYLES.get(value.partition(" ")[0], "") if label == "State" else ""
            grid.add_row(label, Text(clean(value), style=style))
        self.console().print(grid)

    @staticmethod
    def rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], console: Any) -> Any:
        """The same as something that rich prints, cut to the console's width."""
        from rich.cells import cell_len
        from rich.table import Table
        from rich.text import Text

        rows = [[clean(cell) for cell in row] for row in rows]
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
        natural = [
            max(len(column.title), *(cell_len(row[at]) for row in rows), 0)
            for at, column in enumerate(columns)
        ]
        room = console.width - _GAP * (len(columns) - 1)
        widths = fit(natural, [bool(column.cut) for column in columns], room)
        for column, width in zip(columns, widths, strict=True):
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                no_wrap=True,
                overflow="ellipsis",
                width=width,
            )
        for row in rows:
            cells = []
            for column, cell, width in zip(columns, row, widths, strict=True):
                text = shorten(cell, width, column.cut) if column.cut else cell
                cells.append(Text(text, style=(column.styles or {}).get(cell, "")))
            table.add_row(*cells)
        return table

    def console(self) -> Any:
        """The terminal, as rich knows it."""
        from rich.console import Console

        return Console(no_color=self._no_color or None, highlight=False)

    def _write(self, text: str) -> None:
        if sys.stdout is not None:
            sys.stdout.write(text)

    def _flush(self) -> None:
        if sys.stdout is not None:
            sys.stdout.flush()


def plain_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Aligned by spaces, nothing cut."""
    lines = [[column.title for column in columns], *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    form = (" " * _GAP).join(
        f"{{:{'>' if column.right else '<'}{width}}}" for column, width in zip(columns, widths, strict=True)
    )
    return "".join(form.format(*line).rstrip() + "\n" for line in lines)


def fit(natural: Sequence[int], may_cut: Sequence[bool], room: int) -> list[int]:
    """Widths that fit into `room`: the widest of those that may be cut gives way first."""
    widths = list(natural)
    while sum(widths) > room:
        candidates = [at for at, width in enumerate(widths) if may_cut[at] and width > _NARROWEST]
        if not candidates:
            break
        widths[max(candidates, key=widths.__getitem__)] -= 1
    return widths


def shorten(text: str, width: int, where: str) -> str:
    """Text cut to so many terminal cells, with an ellipsis where something is missing."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    room = width - 1
    if where != "middle":
        return set_cell_size(text, room).rstrip() + "…"
    head = room // 2
    tail = set_cell_size(text[::-1], room - head)[::-1]
    return set_cell_size(text, head) + "…" + tail


def spinner(words: str, *, no_color: bool) -> Callable[[], None]:
    """Show on standard error that we wait; what is returned ends it."""
    from rich.console import Console

    status = Console(stderr=True, no_color=no_color or None).status(words)
    status.start()
    return status.stop

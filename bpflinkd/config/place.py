"""Where keys stand in TOML text, which tomllib does not tell.

The text must be one that tomllib has accepted: nothing is checked here, so little has to be understood.
"""

import re
import tomllib
from bisect import bisect_right
from typing import Final, NamedTuple, TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys and, for arrays, indexes from the top: `("link", 0, "program", "object")`."""


class Place(NamedTuple):
    """A place in text; both count from 1, columns in characters."""

    line: int
    column: int


Places: TypeAlias = dict[KeyPath, Place]

_SKIP: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK: Final = re.compile(r"[ \t]*")
_KEY: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
# No possessive quantifiers: in Debian's Python 3.11.2 they fail where alternatives overlap.
# Up to two quotes may stand before the three that end a multi-line string.
_VALUE: Final = re.compile(
    r'''"""(?:[^"\\]|\\[\s\S]|"(?!""))*"{3,5}'''
    r"""|'''(?:[^']|'(?!''))*'{3,5}"""
    r"""|"(?:[^"\\]|\\.)*"|'[^']*'"""
    r"""|[^"'\[{,\]}\#\n][^,\]}\#\n]*"""
)


def of(found: Places, path: KeyPath) -> Place:
    """The place of a key, a table or an element; of what holds it, where it is not there itself."""
    while path and path not in found:
        path = path[:-1]
    return found.get(path, Place(1, 1))


def places(text: str) -> Places:
    """The places of all keys, tables (their header, if they have one) and elements of arrays."""
    scanner = _Scanner(text)
    scanner.document()
    starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def place(offset: int) -> Place:
        line = bisect_right(starts, offset)
        return Place(line, offset - starts[line - 1] + 1)

    return {path: place(offset) for path, offset in scanner.found.items()}


class _Scanner:
    """Goes through the text once."""

    def __init__(self, text: str) -> None:
        self.found: dict[KeyPath, int] = {}
        """Offsets into the text."""
        self._text = text
        self._at = 0
        self._elements: dict[KeyPath, int] = {}
        """How many `[[path]]` there were."""

    def document(self) -> None:
        """Headers and pairs until the end."""
        table: KeyPath = ()
        self._skip(_SKIP)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_SKIP)

    def _header(self) -> KeyPath:
        """`[table]` or `[[array]]`."""
        start, many = self._at, self._text.startswith("[[", self._at)
        self._at += 2 if many else 1
        parts = [part for part, _ in self._dotted()]
        self._at += 2 if many else 1
        path: KeyPath = ()
        for depth, part in enumerate(parts, 1):
            path = (*path, part)
            self.found.setdefault(path, start)
            if many and depth == len(parts):
                self._elements[path] = self._elements.get(path, 0) + 1
            if path in self._elements:
                path = (*path, self._elements[path] - 1)
                self.found.setdefault(path, start)
        return path

    def _dotted(self) -> list[tuple[str, int]]:
        """The parts of a key, and where each begins."""
        parts = []
        while True:
            self._skip(_BLANK)
            start = self._at
            self._skip(_KEY)
            word = self._text[start : self._at]
            # A quoted key may hold escapes.
            name = next(iter(tomllib.loads(f"{word}=0"))) if word[0] in "\"'" else word
            parts.append((name, start))
            self._skip(_BLANK)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _pair(self, table: KeyPath) -> None:
        """`key = value`."""
        path = table
        for part, start in self._dotted():
            path = (*path, part)
            self.found.setdefault(path, start)
        self._at += 1
        self._skip(_BLANK)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        opening = self._text[self._at]
        if opening not in "[{":
            self._skip(_VALUE)
            return
        self._at += 1
        index = 0
        self._skip(_SKIP)
        while self._text[self._at] not in "]}":
            if opening == "{":
                self._pair(path)
            else:
                element = (*path, index)
                self.found.setdefault(element, self._at)
                self._value(element)
                index += 1
            self._skip(_SKIP)
            if self._text[self._at] == ",":
                self._at += 1
                self._skip(_SKIP)
        self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

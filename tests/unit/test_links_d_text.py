"""Where keys stand in TOML, and that text taken apart means what it means whole."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.config import pieces, place, tables
from bpflinkd.config.link_table import LINKS, Wanted
from bpflinkd.config.place import Place

PASS = 'program = { builtin = "pass" }'


def link(name: str) -> str:
    return f'[[link]]\nname = "{name}"\ntarget = "xdp:eth0"\n{PASS}\n'


# Text taken apart means what it means whole.


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('[[link]]\nname = """\n[[link]]\n"""\n' + PASS, id="a header within a string"),
        pytest.param("link = []\n", id="no links"),
        pytest.param('[["link"]]\nname = "a"\n[[link]]\nname = "b"\n', id="a quoted header"),
        pytest.param(
            '[[ link ]]\nname = "a"\n[link.program]\npin = "/x"\n[[link]] # b\n', id="tables of their own"
        ),
        pytest.param("", id="nothing"),
        pytest.param("# only this", id="a comment"),
    ],
)
def test_apart_and_whole_are_the_same(text: str) -> None:
    found = pieces.read(text.encode(), LINKS)
    assert [fault for placed in found for fault in _sentences(placed)] == [
        fault.sentence for fault in tables.read(tomllib.loads(text), LINKS)[1]
    ]


def _sentences(placed: pieces.Placed[Wanted]) -> list[str]:
    return [fault.sentence for fault in placed.piece.faults]


_PARTS = st.sampled_from(
    [
        link("a"), link("b"), "[[link]]\n", "# x\n", "\n", '"""', "'''", "x = 1\n", "[x]\n", '"',
        'name = "y"\n', 'name = """\n', "link = [1]\n", "[[x]]\n", "[link]\n", " [[link]]\r\n",
        "[link.program]\n", "[[link]] # [[link]]\n",
    ]
)  # fmt: skip


@given(st.lists(_PARTS, max_size=12).map("".join))
def test_any_text_apart_means_what_it_means_whole(text: str) -> None:
    try:
        whole: dict[str, Any] | None = tomllib.loads(text)
    except ValueError:
        whole = None
    if whole is None:
        with pytest.raises(pieces.BadText):
            pieces.read(text.encode(), LINKS)
        return
    wanted, faults = tables.read(whole, LINKS)
    found = pieces.read(text.encode(), LINKS)
    assert [entry.wanted.name for placed in found for entry in placed.piece.entries] == [
        link.name for link in wanted.values()
    ]
    assert [sentence for placed in found for sentence in _sentences(placed)] == [
        fault.sentence for fault in faults
    ]


# Where things stand.


class Writer:
    """Writes TOML in all its forms, and notes where each key stands."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.text = ""
        self.places: dict[place.KeyPath, Place] = {}
        self._draw = draw
        self._made = 0

    def _choose(self, *choices: str) -> str:
        return self._draw(st.sampled_from(choices))

    def _here(self) -> Place:
        return Place(self.text.count("\n") + 1, len(self.text) - self.text.rfind("\n"))

    def _blank(self) -> None:
        self.text += self._choose("", "", " ", "\t ")

    def _gap(self) -> None:
        """Blanks, ends of lines and comments."""
        self.text += self._choose("", "", " ", "\n", "\r\n\t", ' # [[link]] = """ \'{\n', "#\n\n")

    def _name(self) -> tuple[str, str]:
        """A new key, and how it is written."""
        self._made += 1
        base = f"k{self._made}"
        form = self._choose("bare", "bare", "basic", "literal", "odd")
        match form:
            case "bare":
                return base, base
            case "basic":
                return f'{base} "="\\', f'"{base} \\"=\\"\\\\"'
            case "literal":
                return f'{base} ].#"', f"'{base} ].#\"'"
            case _:
                return f"{base}\u00e9", f'"{base}\\u00e9"'

    def document(self) -> None:
        for _ in range(self._draw(st.integers(0, 4))):
            self._lines()
            self.pair(())
            self._end()
        arrays: dict[place.KeyPath, int] = {}
        for _ in range(self._draw(st.integers(0, 4))):
            self._lines()
            table = self._header(arrays)
            self._end()
            for _ in range(self._draw(st.integers(0, 3))):
                self._lines()
                self.pair(table)
                self._end()

    def _lines(self) -> None:
        self._gap()
        self._blank()

    def _end(self) -> None:
        self.text += self._choose("\n", " # ]\n", "\r\n")

    def _header(self, arrays: dict[place.KeyPath, int]) -> place.KeyPath:
        again = sorted(path for path in arrays if len(path) == 1)
        form = self._choose("table", "array", "again", "below") if again else self._choose("table", "array")
        start = self._here()
        if form in ("again", "below"):
            old = self._draw(st.sampled_from(again))
            (name,) = old
            key = tomllib_key(str(name))
            if form == "again":
                arrays[old] += 1
                self.text += f"[[ {key} ]]"
                path: place.KeyPath = (*old, arrays[old])
            else:
                below, written = self._name()
                self.text += f"[{key} . {written}]"
                path = (*old, arrays[old], below)
            self.places[path] = start
            return path
        name, written = self._name()
        self.places[(name,)] = start
        if form == "table":
            self.text += f"[ {written}]"
            return (name,)
        self.text += f"[[{written}]]"
        arrays[(name,)] = 0
        self.places[name, 0] = start
        return (name, 0)

    def pair(self, path: place.KeyPath) -> None:
        for more in self._draw(st.sampled_from([(True, False), (False,), (False,)])):
            name, written = self._name()
            path = (*path, name)
            self.places[path] = self._here()
            self.text += written
            self._blank()
            if more:
                self.text += "."
                self._blank()
        self.text += "="
        self._blank()
        self._value(path)

    def _value(self, path: place.KeyPath) -> None:
        form = self._choose("scalar", "scalar", "scalar", "array", "table")
        if form == "array":
            self.text += "["
            self._gap()
            for at in range(self._draw(st.integers(0, 3))):
                if at:
                    self.text += ","
                    self._gap()
                self.places[*path, at] = self._here()
                self._value((*path, at))
                self._gap()
            self.text += "]"
        elif form == "table":
            self.text += "{"
            self._blank()
            for at in range(self._draw(st.integers(0, 3))):
                if at:
                    self.text += ","
                    self._blank()
                self.pair(path)
                self._blank()
            self.text += "}"
        else:
            self.text += self._choose(
                "1", "-1_000", "0x1f", "1.5e3", "true", "inf", "1979-05-27", "1979-05-27 07:32:00",
                "07:32:00.5", '""', '"a\\"]\\\\"', "''", "'\\'", "'\"'", '"#"', '"}"', '"\u00e9\U0001f980"',
                "''''''", '""""""',
                '"""\n[[link]]\n# \\""" x = 1\n"""', "'''\r\nit''s\n'''", '"""a"""""', '""""a""b"""',
                "'''a'''''",                '"""\\\n  x"""',
            )  # fmt: skip


def tomllib_key(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def paths(value: object, path: place.KeyPath = ()) -> set[place.KeyPath]:
    """All that can be named in a document."""
    found = {path} if path else set()
    pairs: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, below in pairs:
        found |= paths(below, (*path, key))
    return found


@given(st.data())
def test_every_key_is_found_where_it_was_written(data: st.DataObject) -> None:
    writer = data.draw(st.composite(_written)())
    document = tomllib.loads(writer.text)
    found = place.places(writer.text)
    assert set(found) == paths(document)
    assert found == writer.places


def _written(draw: st.DrawFn) -> Writer:
    writer = Writer(draw)
    writer.document()
    return writer


def test_what_is_not_there_is_where_its_table_is() -> None:
    found = place.places('\n[[link]]\n program . object = "x"')
    assert place.of(found, ("link", 0, "name")) == Place(2, 1)
    assert place.of(found, ("link", 0, "program")) == Place(3, 2)
    assert place.of(found, ("link", 0, "program", "object")) == Place(3, 12)
    assert place.of({}, ("link",)) == Place(1, 1)

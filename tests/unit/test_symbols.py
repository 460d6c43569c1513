"""The kernel's symbol files, as text of ours: what is a function, what its name, where a block ends."""

from pathlib import Path

import pytest

from bpflinkd.core.errors import NotSupported
from bpflinkd.kernel import symbols
from bpflinkd.kernel.symbols import Function, Symbols

KALLSYMS = """\
ffffffff81000000 T _text
ffffffff81000100 T tcp_connect
ffffffff81000180 t tcp_connect_init
ffffffff81000200 t t_show
ffffffff81000300 t t_show
ffffffff81000400 W weak_one
ffffffff81000500 D tcp_data
ffffffff81000600 t foo.isra.0
ffffffffc0000000 t dummy_xmit\t[dummy]
ffffffffc0001000 t bpf_prog_6deef7357e7b4530\t[bpf]
"""
TRACEABLE = """\
tcp_connect
tcp_close
t_show
t_show
dummy_xmit [dummy]
"""


@pytest.fixture(autouse=True, params=[64, 1 << 18], ids=["tiny blocks", "one block"])
def _files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kallsyms, listed = tmp_path / "kallsyms", tmp_path / "functions"
    kallsyms.write_text(KALLSYMS)
    listed.write_text(TRACEABLE)
    monkeypatch.setattr(symbols, "_KALLSYMS", kallsyms)
    monkeypatch.setattr(symbols, "_TRACEABLE", (tmp_path / "missing", listed))
    monkeypatch.setattr(symbols, "_BLOCK", request.param)


@pytest.mark.parametrize(
    ("symbol", "found"),
    [
        pytest.param("tcp_connect", [Function(0xFFFFFFFF81000100, "")], id="one"),
        pytest.param("dummy_xmit", [Function(0xFFFFFFFFC0000000, "dummy")], id="in a module"),
        pytest.param("weak_one", [Function(0xFFFFFFFF81000400, "")], id="weak"),
        pytest.param("foo.isra.0", [Function(0xFFFFFFFF81000600, "")], id="a clone of the compiler's"),
        pytest.param(
            "t_show",
            [Function(0xFFFFFFFF81000200, ""), Function(0xFFFFFFFF81000300, "")],
            id="ambiguous",
        ),
        pytest.param("tcp_data", [], id="data"),
        pytest.param("tcp_con", [], id="a beginning"),
        pytest.param("connect", [], id="an end"),
        pytest.param("foo.isra", [], id="a dot is a dot"),
    ],
)
def test_functions_by_name(symbol: str, found: list[Function]) -> None:
    assert list(Symbols().functions(symbol)) == found


def test_size_is_up_to_the_next_symbol() -> None:
    assert symbols.size_at(0xFFFFFFFF81000100) == 0x80
    assert symbols.size_at(0xFFFFFFFFC0001000) == 0
    assert symbols.size_at(0) == 0


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        pytest.param("tcp_*", ["tcp_close", "tcp_connect"], id="a star"),
        pytest.param("tcp_clos?", ["tcp_close"], id="a question mark"),
        pytest.param("tcp_[a-c]lose", ["tcp_close"], id="a class"),
        pytest.param("dummy_*", ["dummy_xmit"], id="in a module"),
        pytest.param("t_show", [], id="an ambiguous name is left out"),
        pytest.param("*", ["dummy_xmit", "tcp_close", "tcp_connect"], id="all"),
        pytest.param("connect", [], id="the whole name has to match"),
    ],
)
def test_traceable_functions_by_pattern(pattern: str, found: list[str]) -> None:
    assert symbols.traceable(pattern) == found


def test_no_list_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(symbols, "_TRACEABLE", (tmp_path / "missing",))
    with pytest.raises(NotSupported, match="mount -t tracefs"):
        symbols.traceable("*")

"""What the journal keeps of a link's life."""

from typing import Any

import pytest

from integration.service.guest import Guest
from integration.service.host import COUNT, SERVICE, Host

NAME = "told"


@pytest.fixture(scope="module")
def entries(machine: Guest) -> list[dict[str, Any]]:
    """The entries of a link that was attached, replaced and detached."""
    host = Host(machine)
    host.ensure_running()
    mark = host.journal_mark()
    try:
        wire = host.wire()
        host.attach(NAME, f"xdp:{wire[0]}", "count_old")
        host.ctl("replace", NAME, "--object", COUNT, "--program", "count_new")
        host.ctl("detach", NAME)
        return host.journal(mark, LINK=NAME)
    finally:
        host.tidy()


def test_each_change_is_an_entry_with_a_message_id(entries: list[dict[str, Any]]) -> None:
    assert len(entries) >= 3
    kinds = [entry.get("MESSAGE_ID", "") for entry in entries]
    assert all(len(kind) == 32 for kind in kinds), entries
    # Attached, replaced, detached: three kinds of event at least.
    assert len(set(kinds)) >= 3


def test_each_entry_names_the_link_and_its_target(entries: list[dict[str, Any]]) -> None:
    assert entries
    for entry in entries:
        assert entry["LINK"] == NAME
        assert entry["TARGET"].startswith("xdp:hook"), entry


def test_replacement_tells_generation_and_both_programs(entries: list[dict[str, Any]]) -> None:
    (entry,) = [entry for entry in entries if "OLD_PROG" in entry and "NEW_PROG" in entry]
    assert entry["GENERATION"] == "2"
    assert int(entry["OLD_PROG"]) > 0
    assert int(entry["NEW_PROG"]) not in {0, int(entry["OLD_PROG"])}


# After the tests above: it reads the entries that they made.
def test_catalog_explains_each_entry(host: Host, entries: list[dict[str, Any]]) -> None:
    assert entries
    for kind in {entry.get("MESSAGE_ID", "") for entry in entries}:
        assert kind
        listed = host.run("journalctl", "--no-pager", "--dump-catalog", kind).stdout
        assert "Subject:" in listed, kind
    shown = host.run("journalctl", "--no-pager", "--catalog", f"--unit={SERVICE}", f"LINK={NAME}").stdout
    # Before it stands a mark that depends on the locale.
    assert shown.count(" Subject: ") >= len(entries)

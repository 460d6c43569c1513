"""`bpflinkctl config`: what files declare, shown and checked without a daemon."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bpflinkd.cli import main

GOOD = """\
[[link]]
name = "edge"
target = "xdp:eth0"
program = { object = "x.o", name = "edge" }
policy = "restore"

[[link]]
name = "pods"
match = { name = "veth*", driver = "veth" }
program = { builtin = "pass" }
"""


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Path:
    """A configuration directory."""
    if os.geteuid() != 0:
        pytest.skip("files of links.d and grants.d must be root's")
    (tmp_path / "links.d").mkdir()
    (tmp_path / "links.d/x.o").write_bytes(b"\x7fELF")
    (tmp_path / "links.d/10.toml").write_text(GOOD)
    return tmp_path


GRANTS = """\
[[grant]]
user = 4000000
targets = ["xdp:veth*", "cgroup:/web.slice egress"]
program-types = ["xdp", "cgroup_skb"]
sources = ["builtin", "object"]
max-memory = 5000

[[grant]]
unit = "tw-agent.service"
targets = ["kprobe:tcp_*"]
kernel-memory = true
policies = ["restore", "alert"]
"""


@pytest.fixture(name="grants")
def _grants(place: Path) -> Path:
    """A file of grants there."""
    (place / "grants.d").mkdir()
    path = place / "grants.d/10.toml"
    path.write_text(GRANTS)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main.main(["config", *words])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_show_is_a_table_that_tells_links_from_templates(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "show", "--config-dir", str(place))
    header, edge, pods = (line.split() for line in out.splitlines())
    assert (code, err) == (0, "")
    assert header == ["NAME", "KIND", "TARGET", "PROGRAM", "POLICY", "OWNER", "DECLARED", "AT"]
    assert edge[:4] == ["edge", "link", "xdp:eth0", "object"]
    assert edge[5:] == ["edge", "restore", "root", f"{place}/links.d/10.toml:1"]
    assert pods[:8] == ["pods", "template", "xdp:veth*", "driver", "veth", "builtin", "pass", "alert"]
    assert pods[8:] == ["root", f"{place}/links.d/10.toml:7"]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        pytest.param('target = "xdp:eth0"', {"xdp": "eth0", "mode": "auto"}, id="an interface"),
        pytest.param(
            'match = { mac = "02:*" }\nmode = "native"',
            {"xdp": "*", "mode": "native", "mac": "02:*"},
            id="a match",
        ),
        pytest.param('target = "cgroup:/a"', {"cgroup": "/a", "attach_type": None}, id="a cgroup"),
        pytest.param(
            'target = "cgroup:/a/* egress"',
            {"cgroup": "/a/*", "attach_type": "egress"},
            id="a template of cgroups",
        ),
        pytest.param(
            'target = "kprobe:f+4"\ncookie = 7', {"kprobe": "f", "offset": 4, "cookie": 7}, id="a kprobe"
        ),
        pytest.param('target = "kretprobe:f"', {"kretprobe": "f", "cookie": 0}, id="a kretprobe"),
        pytest.param('target = "kprobe-multi:f*"', {"kprobe-multi": "f*", "cookie": 0}, id="many functions"),
    ],
)
def test_show_as_a_document(
    place: Path, capsys: pytest.CaptureFixture[str], text: str, target: dict[str, object]
) -> None:
    path = place / "links.d/10.toml"
    path.write_text(f'[[link]]\nname = "x"\n{text}\nprogram = {{ kept = "{"a" * 64}", name = "p" }}\n')
    code, out, _ = run(capsys, "show", "--json", "--config-dir", str(place))
    assert code == 0
    (link,) = json.loads(out)["links"]
    assert link == {
        "name": "x",
        "template": "*" in text and "multi" not in text,
        "target": target,
        "program": {"kept": "a" * 64, "name": "p"},
        "policy": "alert",
        "lifetime": "pinned",
        "owner": {"uid": 0, "user": "root"},
        "file": str(path),
        "line": 1,
    }


@pytest.mark.parametrize(
    ("owner", "shown", "document"),
    [
        pytest.param("4000000", "4000000", {"uid": 4000000, "user": None}, id="a uid without a name"),
        pytest.param('"root"', "root", {"uid": 0, "user": "root"}, id="a name"),
        pytest.param(
            '{ unit = "tw-agent.service" }', "tw-agent.service", {"unit": "tw-agent.service"}, id="a unit"
        ),
    ],
)
def test_show_tells_the_owner(
    place: Path, capsys: pytest.CaptureFixture[str], owner: str, shown: str, document: dict[str, object]
) -> None:
    text = f'[[link]]\nname = "x"\ntarget = "xdp:e"\nprogram.builtin = "pass"\nowner = {owner}\n'
    (place / "links.d/10.toml").write_text(text)
    assert run(capsys, "show", "--config-dir", str(place))[1].splitlines()[1].split()[-2] == shown
    (link,) = json.loads(run(capsys, "show", "--config-dir", str(place), "--json")[1])["links"]
    assert link["owner"] == document


def test_show_has_a_table_of_grants(place: Path, grants: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "show", "--config-dir", str(place))
    assert (code, err) == (0, "")
    header, user, unit = out.split("\n\n")[1].splitlines()
    titles = (
        "HOLDER",
        "TARGETS",
        "SOURCES",
        "PROGRAM TYPES",
        "POLICIES",
        "KERNEL MEMORY",
        "AT MOST",
        "GRANTED AT",
    )
    cells = (
        "user 4000000",
        "xdp:veth*, cgroup:/web.slice egress",
        "object, builtin",
        "cgroup_skb, xdp",
        "alert",
    )
    more = ("no", "8 links, 32 maps, 5000 bytes", f"{grants}:1")
    assert tuple(re.split(r"  +", header)) == titles
    assert tuple(re.split(r"  +", user)) == (*cells, *more)
    assert re.split(r"  +", unit)[3:] == [
        "any",
        "alert, restore",
        "yes",
        "8 links, 32 maps, 64M",
        f"{grants}:8",
    ]


def test_show_has_a_document_of_each_grant(
    place: Path, grants: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "show", "--config-dir", str(place), "--json")
    user, unit = json.loads(out)["grants"]
    assert code == 0
    assert user == {
        "holder": {"uid": 4000000, "user": None},
        "targets": ["xdp:veth*", "cgroup:/web.slice egress"],
        "sources": ["object", "builtin"],
        "program_types": ["cgroup_skb", "xdp"],
        "policies": ["alert"],
        "kernel_memory": False,
        "max_links": 8,
        "max_maps": 32,
        "max_memory": 5000,
        "file": str(grants),
        "line": 1,
    }
    assert (unit["holder"], unit["program_types"]) == ({"unit": "tw-agent.service"}, None)


def test_a_group_is_shown_by_its_name(place: Path, grants: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grants.write_text('[[grant]]\ngroup = "root"\ntargets = ["xdp:e"]\n')
    out = run(capsys, "show", "--config-dir", str(place))[1]
    assert out.splitlines()[-1].startswith("group root  xdp:e  ")
    out = run(capsys, "show", "--config-dir", str(place), "--json")[1]
    assert json.loads(out)["grants"][0]["holder"] == {"gid": 0, "group": "root"}


def test_show_tells_on_standard_error_what_was_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "links.d/20.toml").write_text("x")
    code, out, err = run(capsys, "show", "--config-dir", str(place))
    assert code == 1
    assert len(out.splitlines()) == 3
    assert err.startswith(f"bpflinkctl: {place}/links.d/20.toml:1:2: this is not TOML")


def test_check_counts_what_is_fine(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "check", "--config-dir", str(place)) == (
        0,
        "1 link, 1 template, 0 grants in 1 file, no faults\n",
        "",
    )
    code, out, _ = run(capsys, "check", "--config-dir", str(place), "--json")
    counts = {"links": 1, "templates": 1, "grants": 0, "files": 1}
    assert (code, json.loads(out)) == (0, {**counts, "faults": []})


def test_check_tells_each_fault(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = place / "links.d/20.toml"
    bad.write_text('[[link]]\nname = "x"\ntarget = "xpd:e"\nprogram = 3\n')
    code, out, err = run(capsys, "check", "--config-dir", str(place))
    assert (code, err) == (1, "")
    assert [line.split(": ")[0] for line in out.splitlines()] == [f"{bad}:3:1", f"{bad}:4:1"]
    code, out, _ = run(capsys, "check", "--config-dir", str(place), "--json")
    found = json.loads(out)
    assert (code, found["files"]) == (1, 1)
    assert [fault["file"] for fault in found["faults"]] == [str(bad)] * 2


def test_check_takes_files_and_directories(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = tmp_path / "draft.toml"
    draft.write_text(GOOD.replace("edge", "other").replace("pods", "more").replace("x.o", "links.d/x.o"))
    draft.chmod(0o666)
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "check", "draft.toml", "links.d")[:2] == (
        0,
        "2 links, 2 templates, 0 grants in 2 files, no faults\n",
    )
    code, out, _ = run(capsys, "check", "missing.toml")
    missing = tmp_path / "missing.toml"
    assert code == 1
    assert out == f"{missing}: the file {missing} cannot be read: No such file or directory\n"


def test_faults_of_links_and_of_grants_are_told_together(
    place: Path, grants: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "check", "--config-dir", str(place))[:2] == (
        0,
        "1 link, 1 template, 2 grants in 2 files, no faults\n",
    )
    (place / "links.d/10.toml").write_text("x")
    grants.write_text(GRANTS.replace("kernel-memory = true\n", ""))
    code, out, _ = run(capsys, "check", "--config-dir", str(place))
    assert code == 1
    assert [line.split(": ")[0] for line in out.splitlines()] == [
        f"{place}/links.d/10.toml:1:2",
        f"{grants}:10:12",
    ]
    code, out, err = run(capsys, "show", "--config-dir", str(place))
    assert (code, len(err.splitlines())) == (1, 2)
    assert "HOLDER" not in out


@pytest.mark.parametrize(
    ("draft", "text", "says"),
    [
        pytest.param("x.toml", GRANTS, "0 links, 0 templates, 2 grants in 1 file", id="a file of grants"),
        pytest.param("drafts/x.toml", GRANTS, "2 grants in 1 file", id="a directory of grants"),
        pytest.param("grants.d/y.toml", "", "0 grants in 1 file", id="a directory of that name"),
        pytest.param("x.toml", "# [[grant]]\n", "0 links, 0 templates, 0 grants in 1 file", id="of nothing"),
    ],
)
def test_check_knows_drafts_of_grants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], draft: str, text: str, says: str
) -> None:
    path = tmp_path / draft
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o666)
    code, out, _ = run(capsys, "check", str(path.parent if "/" in draft else path))
    assert (code, says in out) == (0, True), out


@pytest.mark.parametrize(
    ("name", "says"),
    [
        pytest.param("x.toml", "a file of links.d has no key 'grant'", id="a draft is of links then"),
        pytest.param(
            "grants.d/x.toml", "a file of grants.d has no key 'link'", id="unless it is among grants"
        ),
    ],
)
def test_links_and_grants_do_not_share_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, says: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(GRANTS + GOOD)
    code, out, _ = run(capsys, "check", str(path))
    assert (code, says in out) == (1, True), out


def test_rights_count_where_the_daemon_reads(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = place / "links.d/10.toml"
    path.chmod(0o666)
    assert run(capsys, "check", str(path))[0] == 0
    code, out, _ = run(capsys, "check", str(path), "--config-dir", str(place))
    assert code == 1
    assert "can be written by everybody" in out


def test_a_message_cannot_steer_a_terminal(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "links.d/10.toml").write_text(
        '[[link]]\nprogram = { object = "\\u001b[2J" }\nname = "x"\ntarget = "xdp:e"'
    )
    for words in ("show", "check"):
        code, out, err = run(capsys, words, "--config-dir", str(place))
        assert code == 1
        assert "\x1b" not in out + err
        assert "\\x1b[2J" in out + err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        pytest.param(["chekc"], 2, "Did you mean 'check'?", id="a typo"),
        pytest.param(["xyzzy"], 2, "Commands: show, check.", id="no command at all like it"),
        pytest.param(["show", "--jso"], 2, "--json", id="a typo in an option"),
        pytest.param(["-h"], 0, "Check the files for faults.", id="help"),
        pytest.param(["show", "-h"], 0, "bpflinkctl config show", id="help with an example"),
        pytest.param(["check", "-h"], 0, "bpflinkctl config check edge.toml", id="help of the other"),
    ],
)
def test_config_is_a_group_like_the_whole(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, says: str
) -> None:
    got, out, err = run(capsys, *words)
    assert got == code
    assert says in out + err


def test_options_go_before_and_after(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["--json", "config", "check"],
        ["config", "--json", "check"],
        ["config", "check", "--json"],
    ):
        assert main.main([*words, "--config-dir", str(place)]) == 0
        assert json.loads(capsys.readouterr().out)["links"] == 1


def test_no_bus_library_is_loaded(place: Path) -> None:
    script = (
        "import sys; from bpflinkd.cli.main import main\n"
        "main(sys.argv[1:]); print([name for name in ('gi', 'pydbus', 'rich') if name in sys.modules])"
    )
    words = ["config", "check", "--config-dir", str(place)]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["1 link, 1 template, 0 grants in 1 file, no faults", "[]"]

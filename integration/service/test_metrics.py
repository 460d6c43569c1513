"""Metrics of the service: on the socket that its sandbox allows, and on TCP with the drop-in of the docs."""

import re
from pathlib import Path

from integration.service.host import Host, until

DOCS = Path(__file__).parents[2] / "docs" / "statistics.md"
SOCKET = "/run/bpflinkd/metrics.sock"
PORT = 9907
READ = """
import http.client, socket, sys
place = sys.argv[1]
made = http.client.HTTPConnection("127.0.0.1", {port}, timeout=60)
if place:
    made.sock = socket.socket(socket.AF_UNIX)
    made.sock.settimeout(60)
    made.sock.connect(place)
made.request("GET", "/metrics")
print(made.getresponse().read().decode())
""".replace("{port}", str(PORT))


def read(host: Host, place: str = "", user: str = "root") -> str:
    """What is offered on a socket, or on TCP; empty where nothing is, or this user may not read it."""
    done = host.run("runuser", "-u", user, "--", "python3", "-c", READ, place, check=False)
    return done.stdout if done.code == 0 else ""


def test_a_socket_that_root_reads(host: Host) -> None:
    listen(host, SOCKET)
    wire = host.wire()
    host.attach("measured", f"xdp:{wire[0]}")
    host.ctl("replace", "measured", "--builtin", "pass")
    second = 'bpflinkd_link_generation{link="measured"} 2.0'
    until(lambda: second in read(host, SOCKET), "the metrics", seconds=120)
    told = read(host, SOCKET)
    assert 'bpflinkd_swaps_total{kind="xdp",result="done"} 1.0' in told
    assert re.search(r'bpflinkd_links\{state="active"\} [1-9]', told)
    assert read(host, SOCKET, "nobody") == ""


def test_tcp_takes_the_drop_in_of_the_docs(host: Host) -> None:
    text = DOCS.read_text()
    found = re.search(r"```ini\n# systemctl edit bpflinkd\n(.*?)```", text, re.DOTALL)
    assert found
    mark = host.journal_mark()
    listen(host, f"127.0.0.1:{PORT}")
    assert read(host) == ""
    assert any("127.0.0.1:9907" in entry["MESSAGE"] for entry in host.journal(mark)), "the journal says why"
    host.drop_in(found[1])
    host.run("systemctl", "restart", "bpflinkd")
    until(lambda: "bpflinkd_build_info" in read(host, user="nobody"), "the metrics over TCP", seconds=120)


def listen(host: Host, place: str) -> None:
    """Have the service offer metrics there."""
    host.write("/etc/bpflinkd/bpflinkd.toml", f'metrics-listen = "{place}"\n')
    host.undo("systemctl", "restart", "bpflinkd")
    host.undo("rm", "-f", "/etc/bpflinkd/bpflinkd.toml")
    host.run("systemctl", "restart", "bpflinkd")

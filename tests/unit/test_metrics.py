"""Where metrics may be offered, how scrapes are answered, and that scrapers cannot take them from others."""

import contextlib
import socket
import stat
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from bpflinkd.config import ConfigError, listen, load
from bpflinkd.config.listen import Loopback
from bpflinkd.core.events import ChangeKind
from bpflinkd.core.ids import Micros
from bpflinkd.core.statistics import Reading
from bpflinkd.metrics import server as server_module
from bpflinkd.metrics.collector import LinksCollector, Snapshot
from bpflinkd.metrics.observed import Observed
from bpflinkd.metrics.server import MOST, MOST_SILENT, MetricsServer, Unavailable

NOTHING = Reading(at=Micros(1), counting=True, reason="", links=())


@pytest.mark.parametrize(
    ("text", "place"),
    [
        pytest.param("/run/m.sock", Path("/run/m.sock"), id="a path"),
        pytest.param("127.0.0.1:9907", Loopback("127.0.0.1", 9907), id="an address"),
        pytest.param("127.9.9.9:1", Loopback("127.9.9.9", 1), id="another of the loopback"),
        pytest.param("[::1]:65535", Loopback("::1", 65535), id="an address of IPv6"),
    ],
)
def test_a_place_is_understood(tmp_path: Path, text: str, place: listen.Listen) -> None:
    (tmp_path / "bpflinkd.toml").write_text(f'metrics-listen = "{text}"\ncount-runs = true\n')
    config = load(tmp_path, {})
    assert (config.metrics_listen, config.count_runs) == (place, True)
    assert listen.parse(str(place)) == place
    assert load(tmp_path, {"metrics_listen": "/a", "count_runs": False}).metrics_listen == Path("/a")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "neither an absolute path", id="nothing"),
        pytest.param("run/m.sock", "neither an absolute path", id="a relative path"),
        pytest.param("/" + "x" * 107, "at most 107 bytes", id="a path that no socket can have"),
        pytest.param("9907", "neither an absolute path", id="a port alone"),
        pytest.param("127.0.0.1:0", "neither an absolute path", id="port 0"),
        pytest.param("127.0.0.1:65536", "neither an absolute path", id="no such port"),
        pytest.param("127.0.0.1:٩", "neither an absolute path", id="a digit of another script"),
        pytest.param("0.0.0.0:9907", "not of this host alone", id="every address"),
        pytest.param("192.0.2.1:9907", "not of this host alone", id="an address of the network"),
        pytest.param("[::]:9907", "not of this host alone", id="every address of IPv6"),
        pytest.param(":9907", "not a numeric address", id="no address"),
        pytest.param("localhost:9907", "not a numeric address", id="a name, which may be anything"),
    ],
)
def test_a_place_that_is_none_keeps_the_daemon_from_starting(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, {"metrics_listen": text})


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Gauge("answer", "Of this test.", registry=made).set(42)
    return made


@pytest.fixture
def path(tmp_path: Path, registry: CollectorRegistry) -> Iterator[Path]:
    with offered(tmp_path / "m.sock", registry) as place:
        yield place


@contextlib.contextmanager
def offered(place: Path, registry: CollectorRegistry) -> Iterator[Path]:
    served = MetricsServer(place, registry)
    yield place
    served.close()


def connected(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(path))
    made.settimeout(20)
    return made


def answer(connection: socket.socket, request: bytes = b"GET /metrics HTTP/1.1\r\n\r\n") -> bytes:
    with connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_scrape_is_answered_in_the_form_that_the_library_reads(path: Path) -> None:
    head, _, body = answer(connected(path)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200")
    assert b"Server: bpflinkd\r\n" in head
    (family,) = text_string_to_metric_families(body.decode())
    assert [(sample.name, sample.value) for sample in family.samples] == [("answer", 42.0)]


def test_the_socket_is_the_daemons_alone_and_goes_with_it(
    tmp_path: Path, registry: CollectorRegistry
) -> None:
    with offered(tmp_path / "m.sock", registry) as place:
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        with pytest.raises(OSError, match="somebody listens there"):
            MetricsServer(place, registry)
        assert answer(connected(place)).startswith(b"HTTP/1.0 200")
    assert not place.exists()


def test_what_a_killed_daemon_left_is_replaced_and_what_is_no_socket_stays(
    tmp_path: Path, registry: CollectorRegistry
) -> None:
    place = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place))
    with offered(place, registry):
        assert answer(connected(place)).startswith(b"HTTP/1.0 200")
    place.write_text("precious")
    with pytest.raises(OSError, match=r"m\.sock: it is there, and is no socket"):
        MetricsServer(place, registry)
    assert place.read_text() == "precious"
    with pytest.raises(OSError, match=r"no metrics on /nowhere/m\.sock: No such file"):
        MetricsServer(Path("/nowhere/m.sock"), registry)


def test_a_port_is_offered_and_a_taken_one_refused(registry: CollectorRegistry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = Loopback("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(OSError, match=f"no metrics on {place}: Address already in use"):
            MetricsServer(place, registry)
    served = MetricsServer(place, registry)
    with urllib.request.urlopen(f"http://{place}/metrics", timeout=20) as scraped:
        assert b"answer 42.0" in scraped.read()
    served.close()


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        pytest.param(b"GET /nope HTTP/1.1\r\n\r\n", b"404", id="another path"),
        pytest.param(b"GET /metrics?name[]=answer HTTP/1.1\r\n\r\n", b"200", id="some of them"),
        pytest.param(b"POST /metrics HTTP/1.1\r\n\r\n", b"501", id="another method"),
        pytest.param(b"nonsense here\x00 \xff\r\n\r\n", b"400", id="no HTTP"),
    ],
)
def test_requests_of_all_kinds(path: Path, request_: bytes, code: bytes) -> None:
    assert code in answer(connected(path), request_)


def test_no_more_is_read_than_a_request_needs(path: Path) -> None:
    connection = connected(path)
    with connection, pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.sendall(b"GET /metrics HTTP/1.1\r\nx: " + b"y" * (8 << 20))
    assert answer(connected(path)).startswith(b"HTTP/1.0 200")


def test_the_silent_keep_nobody_out(path: Path) -> None:
    silent = [connected(path) for _ in range(5 * MOST)]
    began = time.monotonic()
    assert answer(connected(path)).startswith(b"HTTP/1.0 200")
    assert time.monotonic() - began < 5
    assert silent[0].recv(1) == b"", "the oldest gave way"
    assert sum(thread.name.startswith("Thread-") for thread in threading.enumerate()) <= MOST_SILENT + 2
    for each in silent:
        each.close()


def test_who_dribbles_is_cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LONGEST", 0.3)
    connection = connected(path)
    until = time.monotonic() + 10
    with connection, pytest.raises((BrokenPipeError, ConnectionResetError)):
        while time.monotonic() < until:
            connection.sendall(b"G")
            time.sleep(0.05)


def test_a_daemon_that_does_not_answer_is_a_sentence(tmp_path: Path) -> None:
    def take() -> Snapshot:
        raise Unavailable("it has other work")

    made = CollectorRegistry()
    made.register(LinksCollector(take))
    with offered(tmp_path / "m.sock", made) as place:
        told = answer(connected(place))
        assert told.startswith(b"HTTP/1.0 503")
        assert told.endswith(b"it has other work\n")


def test_counters_are_there_from_the_beginning_and_follow_the_conventions() -> None:
    made = CollectorRegistry()
    observed = Observed(made, "1.2")
    made.register(LinksCollector(lambda: Snapshot(NOTHING, {"sweep": True})))
    observed.swapped("xdp", 0.008, True)
    observed.swapped("xdp", 0.5, False)
    observed.changed(ChangeKind.LINK_UPDATED)
    value = made.get_sample_value
    assert value("bpflinkd_swaps_total", {"kind": "xdp", "result": "done"}) == 1
    assert value("bpflinkd_swaps_total", {"kind": "xdp", "result": "failed"}) == 1
    assert value("bpflinkd_swap_seconds_sum", {"kind": "xdp"}) == 0.008
    for kind in ChangeKind:
        seen = value("bpflinkd_foreign_changes_total", {"kind": kind})
        assert seen == (kind is ChangeKind.LINK_UPDATED)
    assert value("bpflinkd_links", {"state": "failed"}) == 0
    assert value("bpflinkd_watch_source_up", {"source": "sweep"}) == 1
    assert value("bpflinkd_run_counting") == 1
    assert value("bpflinkd_build_info", {"version": "1.2"}) == 1
    for family in made.collect():
        assert family.name.startswith("bpflinkd_")
        assert family.documentation.endswith(".")

"""Answers scrapes over HTTP, on threads of its own.

On the loopback interface whoever is on the host may connect, and say nothing, little or much. So
connections, their time and what is read of them are bounded, and answers are made one at a time, with a
long rest after each: threads of Python run one at a time, and the main loop must have its share.
"""

import io
import logging
import os
import socket
import socketserver
import stat
import threading
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, MetricsHandler

from bpflinkd.config.listen import Listen, Loopback

log = logging.getLogger(__name__)

MOST_SILENT: Final = 8
"""Connections whose request has not come yet; the oldest gives way to a new one."""
MOST: Final = 16
"""Connections in all. What comes then is closed at once."""
LONGEST: Final = 10.0
"""Seconds from connecting to the end of the answer."""
_REQUEST: Final = 16 << 10
"""Bytes that are read of a request."""
_REST: Final = 9
"""How much longer than an answer took the rest after it is."""
_LONGEST_REST: Final = 0.5
"""Seconds."""
_QUEUE: Final = 128
"""Connections that wait to be accepted."""
_LOOK: Final = 0.5
"""Seconds between two looks for connections that take too long."""


class Unavailable(Exception):
    """There is nothing to tell now: a sentence."""


class _Few(io.RawIOBase):
    """The beginning of a request."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = _REQUEST

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class _Handler(MetricsHandler):
    """One scrape. Speaks HTTP/1.0: a request a connection."""

    server: "_Server"
    timeout = LONGEST

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Few(self.connection))

    def do_GET(self) -> None:  # noqa: N802  # as the library calls it
        if urlsplit(self.path).path not in ("/", "/metrics"):
            self._say(404, "metrics are at /metrics")
            return
        self.registry = self.server.registry
        self.server.heard(self.connection)
        try:
            with self.server.turn:
                began = time.monotonic()
                super().do_GET()
                self.connection.shutdown(socket.SHUT_WR)  # the end of the answer, before the rest
                time.sleep(min(_REST * (time.monotonic() - began), _LONGEST_REST))
        except Unavailable as reason:
            self._say(503, str(reason))

    def _say(self, code: int, sentence: str) -> None:
        body = f"{sentence}\n".encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "bpflinkd"


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread a connection, within the bounds above."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = _QUEUE

    def __init__(self, family: int, address: Any, registry: CollectorRegistry) -> None:
        self.address_family = family
        self.registry = registry
        self.turn = threading.Lock()
        self._guard = threading.Lock()
        self._open: dict[socket.socket, float] = {}
        """When each connection was made, the oldest first."""
        self._silent: dict[socket.socket, None] = {}
        super().__init__(address, _Handler, bind_and_activate=False)

    def heard(self, request: socket.socket) -> None:
        """A connection's request has come."""
        with self._guard:
            self._silent.pop(request, None)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Called on the thread that accepts."""
        with self._guard:
            if len(self._silent) >= MOST_SILENT:
                self._cut(next(iter(self._silent)))
            full = len(self._open) >= MOST
            if not full:
                self._open[request] = time.monotonic()
                self._silent[request] = None
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The end of a connection, on its thread."""
        with self._guard:
            self._open.pop(request, None)
            self._silent.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Between two looks for new connections."""
        late = time.monotonic() - LONGEST
        with self._guard:
            for request in [request for request, since in self._open.items() if since < late]:
                self._cut(request)

    def _cut(self, request: socket.socket) -> None:
        """Let its thread find the connection ended."""
        self._silent.pop(request, None)
        try:
            request.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.debug("a scraper had gone: %s", error)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A scraper that goes away in the middle is no matter of ours."""
        log.debug("a scrape ended early", exc_info=True)


class MetricsServer:
    """Listens from the beginning until `close`."""

    def __init__(self, listen: Listen, registry: CollectorRegistry) -> None:
        """Listen.

        Raises:
            OSError: the address is taken, or the socket cannot be made; the sentence names it.
        """
        self._path = None if isinstance(listen, Loopback) else listen
        if self._path is not None:
            _make_room(self._path)
        try:
            self._server = _listening(listen, registry)
        except OSError as error:
            raise OSError(f"no metrics on {listen}: {error.strerror or error}") from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_LOOK,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop, and remove the socket. Answers that are being made end with the process."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _listening(listen: Listen, registry: CollectorRegistry) -> _Server:
    if isinstance(listen, Loopback):
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        server = _Server(family, (listen.host, listen.port), registry)
    else:
        server = _Server(socket.AF_UNIX, str(listen), registry)
    try:
        server.server_bind()
        if not isinstance(listen, Loopback):
            # Nobody can connect before we listen, so nobody was there before this.
            os.chmod(listen, stat.S_IRUSR | stat.S_IWUSR)
        server.server_activate()
    except BaseException:
        server.server_close()
        raise
    return server


def _make_room(path: Path) -> None:
    """Remove the socket that a killed daemon left. OSError: something else is there, or it is in use."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise OSError(
            f"no metrics on {path}: it is there, and is no socket; remove it, or choose another path"
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise OSError(f"no metrics on {path}: {error.strerror or error}") from None
    raise OSError(f"no metrics on {path}: somebody listens there; does another bpflinkd?")

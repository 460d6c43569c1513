"""Programs that links wait for are compiled or loaded one after the other, beside the worker, and put in
place by it."""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from bpflinkd.core.errors import BpflinkdError, Internal
from bpflinkd.core.manager import Manager
from bpflinkd.core.pending import Pending
from bpflinkd.worker import Pool, Worker

_ROOT: Final = 0

log = logging.getLogger(__name__)


class Compiling:
    """For the main loop."""

    def __init__(self, manager: Manager, worker: Worker, compiler: Pool) -> None:
        self._manager = manager
        self._worker = worker
        self._compiler = compiler

    def all(self, pending: Iterable[Pending], done: Callable[[], None] = lambda: None) -> None:
        """See to each; `done` is called after the last."""
        self._next(deque(pending), done)

    def _next(self, waiting: deque[Pending], done: Callable[[], None]) -> None:
        if not waiting:
            done()
            return
        item = waiting.popleft()

        def put(program: Any, error: BaseException | None) -> None:
            self._worker.submit(
                lambda: _finish(item, program, error), lambda _result, _error: self._next(waiting, done)
            )

        self._compiler.submit(_ROOT, lambda: self._manager.replacing.load(item.source, item.checked), put)


def _finish(item: Pending, program: Any, error: BaseException | None) -> None:
    """On the worker: put the program in place, or say why not."""
    if error is None:
        try:
            item.compiled(program)
        except BpflinkdError as refusal:
            error = refusal
    if isinstance(error, BpflinkdError):
        item.failed(error)
    elif error is not None:
        log.error("compiling met an unexpected failure", exc_info=error)
        item.failed(Internal(f"compiling met an unexpected {type(error).__name__}"))

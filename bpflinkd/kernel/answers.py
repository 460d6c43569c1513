"""What the process that compiles and loads has answered, judged: nothing that comes back is believed.

A hostile source or object may have taken the process over. Then it can do what its capabilities let it do,
and nothing that it sends gets it more.
"""

import errno
import json
import os
import re
import signal
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from bpflinkd.core import names
from bpflinkd.core.attach_types import ProgramType
from bpflinkd.core.errors import ALL_ERRORS, BadProgram, BpflinkdError, Internal, LimitExceeded
from bpflinkd.core.maps import MapShape
from bpflinkd.core.model import Confinement
from bpflinkd.kernel import info, libbpf_objects
from bpflinkd.kernel import maps as map_types
from bpflinkd.kernel.helper import Answer, Ending, Limits, Work
from bpflinkd.kernel.maps import MapLimits
from bpflinkd.kernel.program import require_program_fd

JOURNAL: Final = "journalctl -u 'bpflinkd-compiler@*'"
"""Where there is more of a process that is not our child."""

_ERRORS: Final = {error.__name__: error for error in ALL_ERRORS}
_MOST_TEXT: Final = 4000
"""Characters of a sentence."""
_NAME: Final = re.compile(r"[A-Za-z0-9_.$]{1,128}")
_MEMORY_SIGNS: Final = ("out of memory", "bad_alloc", "Cannot allocate memory")


class Received(NamedTuple):
    """A program that came, and its maps."""

    name: str
    """Its function's."""
    fd: int
    map_fds: dict[str, int]


def said(answer: Answer, work: Work, limits: Limits) -> dict[str, Any]:
    """The answer: `kind` a str, `log` a str, the rest as it came.

    Raises:
        BadProgram: there is none: the process crashed, or took more time or memory than `limits`.
        Internal: the process did not start, or what it answered cannot be read.
    """
    if isinstance(answer.said, bytes):
        return _parsed(answer.said, answer.log, work)
    log = readable(answer.log)
    if answer.said is Ending.LATE:
        raise BadProgram(
            f"the {work.subject} was still being {work.done} after {limits.seconds:g} s, so the "
            f"{work.process} was stopped; {work.advice}",
            log=log,
        )
    if any(sign in log for sign in _MEMORY_SIGNS):
        raise out_of_memory(log, work, limits)
    if answer.status is not None:
        raise _death(answer.status, log, work, limits)
    if answer.said is Ending.UNHEARD:
        raise Internal(f"the {work.process} process did not start; see {JOURNAL}", log=log)
    raise BadProgram(
        f"the {work.process} ended on this {work.subject} before it answered: it crashed, or was killed, "
        f"perhaps for want of memory; see {JOURNAL}",
        log=log,
    )


def _death(status: int, log: str, work: Work, limits: Limits) -> BpflinkdError:
    """Our child ended before it answered."""
    if status >= 0:
        last = log.rstrip().rpartition("\n")[2][:300] or "it said nothing"
        return Internal(
            f"the {work.process} process ended with status {status} before it answered: {last}", log=log
        )
    name = signal.Signals(-status).name
    if -status == signal.SIGXCPU:
        return BadProgram(
            f"{work.doing} the {work.subject} took more than {limits.seconds:g} s of processor time; "
            f"{work.advice}",
            log=log,
        )
    if -status == signal.SIGKILL:
        # Ours comes only after the grace, which no dying process needs.
        name += ", perhaps for want of memory: see the kernel's log"
    return BadProgram(f"the {work.process} process crashed on this {work.subject} ({name})", log=log)


def out_of_memory(log: str, work: Work, limits: Limits) -> BadProgram:
    """It ended for want of the memory that it was given."""
    return BadProgram(
        f"{work.doing} the {work.subject} takes more than {limits.memory >> 20} MiB of memory; {work.advice}",
        log=log,
    )


def failure(answered: Mapping[str, Any], work: Work, limits: Limits) -> BpflinkdError:
    """The answers that any work may have: a refusal, want of memory, or another failure."""
    log = str(answered["log"])
    named = _ERRORS.get(str(answered.get("error")))
    if answered["kind"] == "refused" and named is not None:
        return named(text(answered, _MOST_TEXT), log=log)
    if answered["kind"] == "memory":
        return out_of_memory(log, work, limits)
    return Internal(f"the {work.process} process failed: {text(answered, 1000)}", log=log)


def _parsed(message: bytes, log: bytes, work: Work) -> dict[str, Any]:
    try:
        found = json.loads(message)
        start, end = found["log"]
        return {**found, "kind": str(found["kind"]), "log": readable(log[int(start) : int(end)])}
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        raise Internal(f"the {work.process} process answered what is no answer", log=readable(log)) from None


def readable(log: bytes) -> str:
    """What was said, without the rest of the file; nothing in it moves a terminal's cursor."""
    shown = log.rstrip(b"\0").decode(errors="replace").replace("/virtual/main.c", "source.c")
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in shown).rstrip()


def text(answered: Mapping[str, Any], most: int) -> str:
    """The sentence in an answer, cut to so many characters."""
    return readable(str(answered.get("text", "it did not say how")).encode(errors="replace"))[:most]


def received(
    answered: Mapping[str, Any],
    answer: Answer,
    work: Work,
    *,
    function: str | None,
    program_type: ProgramType | None,
    confined: Confinement | None,
) -> Received:
    """The program that came, once all of it is what it has to be.

    Args:
        function: what was asked for; None for the only one.
        program_type: the same; None for any that we can attach.
        confined: what its maps may be.

    Raises:
        Internal: names, number, kinds or types of descriptors do not fit.
        BadProgram, LimitExceeded: the maps are not what `confined` lets them be.
    """
    fds, log = answer.fds, readable(answer.log)
    name, listed = answered.get("function"), answered.get("maps")
    words: list[Any] = [name, *listed] if isinstance(listed, list) else [name]
    if (
        not all(isinstance(word, str) and _NAME.fullmatch(word) for word in words)
        or any(len(names.encode(word)) > names.MAX_ENCODED for word in words[1:])
        or len(words) != len(fds)
        or len(set(words[1:])) != len(words) - 1
        or function not in (None, name)
    ):
        raise Internal(f"the {work.process} process answered names that do not fit", log=log)
    try:
        require_program_fd(fds[0], f"what the {work.process} process sent")
    except BadProgram as error:
        raise Internal(str(error), log=log) from None
    found = info.program_info(fds[0]).type
    wanted = tuple(ProgramType) if program_type is None else (program_type,)
    if any(info.kind_of_fd(fd) != "map" for fd in fds[1:]) or found not in wanted:
        raise Internal(f"the {work.process} process sent a program or a map of another type", log=log)
    map_fds = dict(zip(words[1:], fds[1:], strict=True))
    if confined is not None:
        _check_maps(fds[0], map_fds, confined, work)
    return Received(str(name), fds[0], map_fds)


def _check_maps(fd: int, map_fds: Mapping[str, int], confined: Confinement, work: Work) -> None:
    """That the maps are all that the program uses, and within the limits, by what the kernel says of them."""
    described = {name: info.map_info(map_fd) for name, map_fd in map_fds.items()}
    ids = {each.id for each in described.values()}
    if len(ids) != len(described) or not ids.issuperset(info.map_ids(fd)):
        raise Internal(f"the {work.process} process sent other maps than those of the program")
    shapes = [
        MapShape(name, each.type, each.key_size, each.value_size, each.max_entries)
        for name, each in described.items()
    ]
    map_types.check(shapes, MapLimits(confined.maps, confined.memory), libbpf_objects.possible_cpus())
    charged = sum(map(info.map_memory, map_fds.values()))
    if charged > confined.memory:
        raise LimitExceeded(
            f"the maps of the program take {charged} bytes, and {confined.memory} are granted; make them "
            "smaller, or have max-memory of the grant raised"
        )


def reason(code: object) -> str:
    """An errno in words; whatever else came in its place is none."""
    return os.strerror(code) if isinstance(code, int) and code in errno.errorcode else "it gave no reason"

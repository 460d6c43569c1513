"""Records as text and back. Read back only by the store; a change of form is a new schema version."""

import functools
import json
from dataclasses import asdict
from typing import Any

from bpflinkd.core import attach_types, requests
from bpflinkd.core.callers import Actor
from bpflinkd.core.errors import StorageFailed
from bpflinkd.core.ids import Micros, ProgId, UnixMicros
from bpflinkd.core.model import (
    Confinement,
    Generation,
    Hold,
    Lifetime,
    Origin,
    Outcome,
    Policy,
    ProgramInfo,
    Record,
    State,
    Told,
    Trial,
)
from bpflinkd.core.sources import (
    Builtin,
    PinnedProgram,
    ProgramById,
    ProgramFd,
    Source,
    StoredObject,
    StoredSource,
)
from bpflinkd.core.targets import (
    CgroupHook,
    CgroupId,
    CgroupTarget,
    Hook,
    IfIndex,
    KprobeHook,
    KprobeMultiHook,
    KprobeMultiTarget,
    KprobeTarget,
    Target,
    XdpHook,
    XdpMode,
    XdpTarget,
)

_shared = functools.lru_cache(maxsize=256)
"""Many links have the same at a time."""


def target_text(target: Target) -> str:
    """A target, as the column `target` has it."""
    match target:
        case XdpTarget(interface=interface, mode=mode):
            return json.dumps({"xdp": interface, "mode": mode})
        case CgroupTarget(path=path, attach_type=attach_type):
            return json.dumps({"cgroup": path, "attach_type": attach_type.name})
        case KprobeTarget():
            return json.dumps({"kprobe": asdict(target)})
        case KprobeMultiTarget():
            return json.dumps({"kprobe_multi": asdict(target)})


def target_of(text: str) -> Target:
    """Back. `StorageFailed` where it cannot be read."""
    match json.loads(text):
        case {"xdp": interface, "mode": mode}:
            return XdpTarget(interface=interface, mode=XdpMode(mode))
        case {"cgroup": path, "attach_type": name}:
            return CgroupTarget(path=path, attach_type=attach_types.by_name(name))
        case {"kprobe": fields}:
            return KprobeTarget(**fields)
        case {"kprobe_multi": fields}:
            return KprobeMultiTarget(**fields)
        case other:
            raise StorageFailed(f"the state holds a target that cannot be read: {other}")


@_shared
def source_text(source: Source) -> str:
    """A source, as the column `source` has it."""
    match source:
        case StoredObject(sha256=sha256, program=program, constants=constants):
            told = {"constants": dict(constants)} if constants else {}
            return json.dumps({"object": sha256, "program": program, **told})
        case StoredSource(sha256=sha256, program=program):
            return json.dumps({"source": sha256, "program": program})
        case PinnedProgram(path=path):
            return json.dumps({"pin": path})
        case ProgramById(id=prog_id):
            return json.dumps({"id": prog_id})
        case ProgramFd():
            return json.dumps({"fd": True})
        case Builtin(name=name):
            return json.dumps({"builtin": name})


def source_of(text: str) -> Source:
    """Back. `StorageFailed` where it cannot be read."""
    match json.loads(text):
        case {"object": sha256, "program": program, "constants": dict(constants)}:
            return StoredObject(sha256=sha256, program=program, constants=tuple(constants.items()))
        case {"object": sha256, "program": program}:
            return StoredObject(sha256=sha256, program=program)
        case {"source": sha256, "program": program}:
            return StoredSource(sha256=sha256, program=program)
        case {"pin": path}:
            return PinnedProgram(path=path)
        case {"id": prog_id}:
            return ProgramById(id=ProgId(prog_id))
        case {"fd": True}:
            return ProgramFd()
        case {"builtin": name}:
            return Builtin(name=name)
        case other:
            raise StorageFailed(f"the state holds a source that cannot be read: {other}")


def hook_text(hook: Hook | None) -> str | None:
    """A hook, as the column `hook` has it."""
    match hook:
        case None:
            return None
        case XdpHook(ifindex=ifindex):
            return json.dumps({"ifindex": ifindex})
        case CgroupHook(cgroup_id=cgroup_id):
            return json.dumps({"cgroup_id": cgroup_id})
        case KprobeHook(module=module, load=load):
            return json.dumps({"module": module, "load": load})
        case KprobeMultiHook(functions=functions):
            return json.dumps({"functions": functions})


def hook_of(text: str | None) -> Hook | None:
    """Back. `StorageFailed` where it cannot be read."""
    match json.loads(text or "null"):
        case None:
            return None
        case {"ifindex": ifindex}:
            return XdpHook(IfIndex(ifindex))
        case {"cgroup_id": cgroup_id}:
            return CgroupHook(CgroupId(cgroup_id))
        case {"module": module, "load": load}:
            return KprobeHook(module, load)
        case {"functions": functions}:
            return KprobeMultiHook(functions)
        case other:
            raise StorageFailed(f"the state holds a hook that cannot be read: {other}")


@_shared
def program_text(info: ProgramInfo) -> str:
    """A program, as the column `program` has it."""
    return json.dumps({"id": info.id, "name": info.name, "tag": info.tag, "type": info.type})


def file_of(source: Source) -> str | None:
    """The sha256 of the file that a source is of; None where it is of none."""
    return source.sha256 if isinstance(source, StoredObject | StoredSource) else None


def generation_columns(record: Record) -> tuple[Any, ...]:
    """The columns of a generation but for `outcome` and `together`; `trial` is the last."""
    generation = record.generation
    return (
        record.name,
        generation.number,
        program_text(generation.program),
        source_text(generation.source),
        file_of(generation.source),
        hook_text(record.hook),
        generation.since,
        actor_text(generation.by),
        confinement_text(generation.confinement),
        generation.message,
        generation.of,
        trial_text(record.trial),
    )


def commit_columns(record: Record, link_id: int | None) -> tuple[Any, ...]:
    """The columns generation, hook, link_id, file, template, declared of a link, and its name."""
    return (
        record.generation.number,
        hook_text(record.hook),
        link_id,
        *origin_columns(record.origin),
        record.name,
    )


def told_text(told: Told | None) -> str | None:
    """What was told of a link's state, as the column `told` has it."""
    if told is None:
        return None
    running = asdict(told.running) if told.running else None
    return json.dumps({"state": told.state, "since": told.since, "running": running})


def told_of(text: str | None) -> Told | None:
    """The same, read back."""
    if text is None:
        return None
    found = json.loads(text)
    running = ProgramInfo(**found["running"]) if found["running"] else None
    return Told(State(found["state"]), UnixMicros(found["since"]), running)


def origin_columns(origin: Origin) -> tuple[str, str, str]:
    """The columns file, template, declared."""
    return origin.file, origin.template, origin.program


@_shared
def actor_text(actor: Actor) -> str:
    """Who did something, as the column `actor` has it: what is not known is left out."""
    return json.dumps({key: value for key, value in asdict(actor).items() if value or key == "uid"})


@_shared
def confinement_text(confinement: Confinement | None) -> str | None:
    """How a program was loaded, as the column `confinement` has it."""
    return json.dumps(asdict(confinement)) if confinement is not None else None


def hold_columns(hold: Hold | None) -> tuple[str | None, str | None]:
    """The columns hold, fallback."""
    if hold is None:
        return None, None
    after = hold.fallback
    text = json.dumps(
        {
            "holder": hold.holder,
            "bus": hold.bus,
            "grace": hold.grace,
            "fallback": json.loads(source_text(after)) if after is not None else None,
        }
    )
    return text, after.sha256 if isinstance(after, StoredObject) else None


def hold_of(text: str | None) -> Hold | None:
    """Back."""
    if text is None:
        return None
    said = json.loads(text)
    after = said["fallback"]
    return Hold(
        holder=said["holder"],
        bus=said["bus"],
        grace=Micros(said["grace"]),
        fallback=source_of(json.dumps(after)) if after is not None else None,
    )


@_shared
def trial_text(trial: Trial | None) -> str | None:
    """Until when a generation may be confirmed, as the column `trial` has it."""
    return json.dumps(asdict(trial)) if trial is not None else None


def trial_of(text: str | None) -> Trial | None:
    """Back."""
    if text is None:
        return None
    found: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(text).items()
    }
    return Trial(**found)


def generation(
    number: int,
    program: str,
    source: str,
    since: int,
    actor: str,
    confinement: str | None,
    message: str,
    again: int,
    outcome: str | None,
) -> Generation:
    """From the columns number, program, source, since, actor, confinement, message, again, outcome."""
    return Generation(
        number=number,
        program=ProgramInfo(**json.loads(program)),
        source=source_of(source),
        since=UnixMicros(since),
        by=Actor(**json.loads(actor)),
        confinement=Confinement(**json.loads(confinement)) if confinement else None,
        message=message,
        of=again,
        outcome=Outcome(outcome) if outcome else None,
    )


def record(row: Any, *, hook: str | None) -> Record:
    """From a row of the store's `load`; `hook` is the one that counts, of link or intent."""
    return Record(
        name=row[0],
        target=target_of(row[1]),
        owner=requests.owner(row[2]),
        policy=Policy(row[3]),
        lifetime=Lifetime(row[4]),
        created=UnixMicros(row[5]),
        generation=generation(*row[9:14], *row[19:21], *row[24:26]),
        hook=hook_of(hook),
        origin=Origin(file=row[15], template=row[16], program=row[17]),
        hold=hold_of(row[21]),
        trial=trial_of(row[26]),
    )

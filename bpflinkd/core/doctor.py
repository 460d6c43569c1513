"""What is wrong on a host, or may become so, and what mends it: facts in, findings out. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from bpflinkd.core import remedies, strangers
from bpflinkd.core.access import described
from bpflinkd.core.findings import Facts, Finding, Kind, Level
from bpflinkd.core.model import LinkView, State
from bpflinkd.core.targets import KprobeMultiTarget, KprobeTarget, XdpTarget

MOST: Final = 200
"""Findings of one kind that are told."""
_LEVELS: Final = tuple(Level)
_KINDS: Final = tuple(Kind)


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Every finding, the worst first."""
    found = [*_links(facts), *_same_function(facts), *_host(facts), *strangers.findings(facts)]
    counts = Counter(finding.kind for finding in found)
    found.sort(key=lambda finding: (_LEVELS.index(finding.level), _KINDS.index(finding.kind), finding.where))
    told: Counter[Kind] = Counter()
    kept: list[Finding] = []
    for finding in found:
        told[finding.kind] += 1
        if told[finding.kind] <= MOST:
            kept.append(_presentable(finding))
    kept += (
        _note(
            Kind.INCOMPLETE, f"{number - MOST} more findings of the kind {kind} are not told; mend some first"
        )
        for kind, number in counts.items()
        if number > MOST
    )
    return tuple(kept)


def _note(kind: Kind, what: str, advice: str = "") -> Finding:
    return Finding(level=Level.NOTE, kind=kind, where="", what=what, advice=advice)


# Our links


def _links(facts: Facts) -> Iterator[Finding]:
    for view in facts.links:
        state, name = view.health.state, view.record.name
        if state is not State.ACTIVE:
            yield _not_active(facts, view)
        if name in facts.circumstances.lapsing:
            assert view.record.hold is not None
            then = "its fallback takes over" if view.record.hold.fallback is not None else "it ends"
            mine = view.record.owner == facts.asker
            yield Finding(
                level=Level.WARNING,
                kind=Kind.HOLDER_GONE,
                where=f"link {name}",
                what=f"the connection that held it is gone: {then} once "
                f"{view.record.hold.grace / 1_000_000:g} s have passed since",
                advice="to hold it from here, for as long as this runs:"
                if mine
                else f"its owner, {described(view.record.owner)}, may claim it until then",
                commands=(remedies.claim(view.record),) if mine else (),
            )


def _not_active(facts: Facts, view: LinkView) -> Finding:
    health, record = view.health, view.record
    fault = Finding(
        level=Level.FAULT,
        kind=Kind.LINK_STATE,
        where=f"link {record.name}",
        what=f"it is {health.state} on {record.target}: {health.reason}",
    )
    match health.state:
        case State.WAITING:
            return replace(
                fault,
                level=Level.WARNING,
                advice="it is attached by itself once it can be; where it is not wanted any more:",
                commands=(remedies.detach(record, facts.asker),),
            )
        case State.FAILED:
            return replace(
                fault,
                advice="it is tried again with every sweep; once the reason is mended, at once by:",
                commands=remedies.put_back(view, facts.asker),
            )
        case State.TAMPERED:
            return replace(
                fault,
                advice="to take the hook back by a new link; in between nothing runs there:",
                commands=remedies.put_back(view, facts.asker),
            )
        case _:
            return replace(
                fault,
                advice="to put ours back:",
                commands=(*_eviction(facts, view), *remedies.put_back(view, facts.asker)),
            )


def _eviction(facts: Facts, view: LinkView) -> Iterator[remedies.Command]:
    """What takes the stranger off whose program is in our place."""
    running, target = view.health.running, view.record.target
    if view.health.state is State.DISPLACED and running is not None and isinstance(target, XdpTarget):
        place = replace(target, mode=running.mode or target.mode)
        yield remedies.remove(place, running.link_id, running.program.id, facts.survey.cgroup_root)


def _same_function(facts: Facts) -> Iterator[Finding]:
    """Several links of ours on one kernel function."""
    places: defaultdict[str, list[LinkView]] = defaultdict(list)
    for view in facts.links:
        if isinstance(view.record.target, KprobeTarget | KprobeMultiTarget):
            places[str(view.record.target)].append(view)
    for place, views in places.items():
        first: dict[str, str] = {}
        for view in views:
            name, tag = view.record.name, view.record.generation.program.tag
            twin = first.setdefault(tag, name)
            if twin != name:
                yield Finding(
                    level=Level.WARNING,
                    kind=Kind.ATTACHED_TWICE,
                    where=place,
                    what=f"our links {twin!r} and {name!r} run the same program there, tag {tag}",
                    advice="where one is enough:",
                    commands=(remedies.detach(view.record, facts.asker),),
                )
        if len(first) > 1:
            names = ", ".join(repr(view.record.name) for view in views)
            yield replace(
                _note(Kind.ATTACHED_TWICE, f"{len(views)} links of ours are there: {names}"), where=place
            )


# The host and the daemon


def _host(facts: Facts) -> Iterator[Finding]:
    for sentence in facts.circumstances.refused:
        yield Finding(
            level=Level.FAULT,
            kind=Kind.REFUSED,
            where="",
            what=sentence,
            advice="once the file is corrected:",
            commands=(remedies.reload(),),
        )
    live = [source.name for source in facts.circumstances.sources if source.live]
    if live:
        yield _note(Kind.WATCH, f"changes by others are noticed by: {', '.join(live)}")
    for source in facts.circumstances.sources:
        if not source.live:
            why = f": {source.detail}" if source.detail else ""
            yield _note(Kind.WATCH, f"the watch source {source.name} is not live{why}")
    for feature in facts.features:
        if feature.lacks:
            yield _note(Kind.FEATURE, f"{feature.name} cannot be used here: {feature.lacks}")
    for sentence in facts.survey.cut:
        yield _note(Kind.INCOMPLETE, sentence)


# Whatever a path or a name may hold


def _presentable(finding: Finding) -> Finding:
    """A finding that can travel as UTF-8, with no command that would be another one when it is typed."""
    commands, advice = finding.commands, finding.advice
    if not all(word.isprintable() for command in commands for word in command):
        commands = ()
        advice = "its name holds characters that cannot be typed safely; look at it with 'ls -b'"
    return replace(
        finding, where=_utf8(finding.where), what=_utf8(finding.what), advice=advice, commands=commands
    )


def _utf8(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()

"""What runs beside ours on a cgroup: counted while others change it, and by how many in a sweep."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from bpflinkd.core import attach_types
from bpflinkd.core.executor import Held
from bpflinkd.core.ids import ProgId
from bpflinkd.core.links import Entry, Links
from bpflinkd.core.model import Health, ProgramInfo, State
from bpflinkd.core.neighbours import Neighbours
from bpflinkd.core.targets import CgroupHook, CgroupId, CgroupTarget
from tests.unit.fakes import NOW, FakeLink, FakeProgram, info, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from bpflinkd.core.ports import Kernel

HOOK = CgroupHook(CgroupId(5))
OURS, THEIRS, ALSO_THEIRS = 1, 66, 77


@dataclass
class FakeCompany:
    """The programs of a hook as they were."""

    hook: "Hook"
    programs: tuple[ProgId, ...]

    def unchanged(self) -> bool:
        return self.programs == self.hook.now()

    def close(self) -> None: ...


class Hook:
    """The hook of one cgroup, with our link on it. Stands in for the kernel."""

    def __init__(self) -> None:
        self.link = FakeLink(prog_id=OURS, hook=HOOK)
        self.others: list[int] = []
        self.meanwhile: Callable[[], None] = lambda: None
        """What somebody does between two questions, once."""

    def now(self) -> tuple[ProgId, ...]:
        return tuple(map(ProgId, (self.link.prog_id, *self.others)))

    def company(self, _target: CgroupTarget) -> FakeCompany:
        found = FakeCompany(self, self.now())
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return found

    def describe(self, prog_id: ProgId) -> ProgramInfo:
        return info(prog_id)


def cast_of(names: tuple[str, ...] = ("it",)) -> tuple[Hook, Links, Neighbours]:
    hook, links = Hook(), Links()
    for name in names:
        target = CgroupTarget(path=f"/{name}", attach_type=attach_types.by_name("egress"))
        entry = Entry(
            record=replace(record(1, OURS), name=name, target=target, hook=HOOK),
            health=Health(state=State.ACTIVE, reason="", since=NOW),
            held=Held(link=hook.link, program=FakeProgram(OURS)),
        )
        links.add(entry)
    neighbours = Neighbours(links, cast("Kernel", hook))
    for entry in links.values():
        neighbours.count(entry)
    return hook, links, neighbours


def told(neighbours: Neighbours, entry: Entry) -> list[tuple[Any, ...]]:
    found = neighbours.count(entry)
    return [(str(each.kind), (each.after or each.before or info(0)).id) for each in found]


def test_what_comes_and_goes_is_told_once() -> None:
    hook, links, neighbours = cast_of()
    hook.others = [THEIRS, THEIRS, ALSO_THEIRS]
    assert sorted(told(neighbours, links["it"])) == [
        ("neighbour-added", each) for each in sorted(hook.others)
    ]
    assert told(neighbours, links["it"]) == []
    hook.others = [THEIRS]
    assert sorted(told(neighbours, links["it"])) == [
        ("neighbour-removed", THEIRS),
        ("neighbour-removed", ALSO_THEIRS),
    ]


def test_a_stranger_behind_our_link_is_no_neighbour() -> None:
    hook, links, neighbours = cast_of()
    hook.link.prog_id = THEIRS
    assert told(neighbours, links["it"]) == []


def test_a_swap_of_ours_while_we_count_is_no_neighbour() -> None:
    hook, links, neighbours = cast_of()
    hook.others = [ALSO_THEIRS]
    hook.meanwhile = lambda: setattr(hook.link, "prog_id", THEIRS)
    assert told(neighbours, links["it"]) == [("neighbour-added", ALSO_THEIRS)]


def test_each_has_its_turn_and_a_sweep_stays_short() -> None:
    _, links, neighbours = cast_of(tuple(f"it-{number}" for number in range(2000)))
    seen: list[Entry] = []
    while len(seen) < len(links):
        turn = neighbours.turn()
        assert 0 < len(turn) <= 251
        seen += turn
    assert sorted(entry.record.name for entry in seen) == sorted(links)
    links.drop("it-0")
    assert all(entry.record.name != "it-0" for _ in range(8) for entry in neighbours.turn())


def test_few_are_counted_in_each_sweep() -> None:
    _, links, neighbours = cast_of(tuple(f"it-{number}" for number in range(100)))
    for _ in range(3):
        assert {entry.record.name for entry in neighbours.turn()} == set(links)

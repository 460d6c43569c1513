"""What the sentinel saw, and how it is told once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from bpflinkd.core import attach_types
from bpflinkd.core.culprits import Culprit
from bpflinkd.core.events import ForeignChange, News, Operation, SlotHook, Touch
from bpflinkd.core.executor import Held
from bpflinkd.core.ids import LinkId, Micros, ProgId
from bpflinkd.core.links import Entry, Links
from bpflinkd.core.model import Health, LinkFacts, Occupant, Record, State, Status
from bpflinkd.core.reconcile import NO_FIGHT, Verdict, judge
from bpflinkd.core.targets import CgroupHook, CgroupId, CgroupTarget, IfIndex, KprobeTarget, XdpHook
from bpflinkd.core.telling import Telling
from bpflinkd.core.touches import meaning
from bpflinkd.core.witness import Witness
from tests.unit.fakes import (
    HOOK,
    LINK_ID,
    NOW,
    TICKS,
    FakeLink,
    FakeProgram,
    FakeSentinel,
    info,
    record,
)

BPFTOOL = Culprit(pid=4711, thread=4711, uid=0, comm="bpftool", executable="/usr/sbin/bpftool")
STRANGER = LinkId(99)
NONE = LinkId(0)
EGRESS, INGRESS = attach_types.by_name("egress"), attach_types.by_name("ingress")
ON_XDP = record(1, 1)
ON_CGROUP = replace(ON_XDP, target=CgroupTarget(path="/a", attach_type=EGRESS), hook=CgroupHook(CgroupId(5)))
ON_KPROBE = replace(ON_XDP, target=KprobeTarget(symbol="tcp_connect"))


def touch(operation: str, **fields: Any) -> Touch:
    filled: dict[str, Any] = {
        "operation": Operation(operation),
        "hook": HOOK,
        "attach_type": EGRESS.number,
        "link_id": LINK_ID,
        "before": None,
        "after": None,
        "dying": False,
        "by": BPFTOOL,
        "at": Micros(TICKS - 7),
    }
    return Touch(**{**filled, **fields})


@pytest.mark.parametrize(
    ("of", "seen", "kind"),
    [
        pytest.param(ON_XDP, touch("xdp-install", after=info(66)), "link-updated", id="our link updated"),
        pytest.param(ON_XDP, touch("xdp-install", before=info(1)), "link-detached", id="our link detached"),
        pytest.param(ON_XDP, touch("xdp-install", dying=True), None, id="the interface goes"),
        pytest.param(
            ON_XDP, touch("xdp-install", link_id=NONE, after=info(66)), "program-attached", id="by netlink"
        ),
        pytest.param(
            ON_XDP,
            touch("xdp-install", link_id=STRANGER, after=info(66)),
            "program-attached",
            id="their link",
        ),
        pytest.param(
            ON_XDP, touch("xdp-install", link_id=NONE, before=info(66)), None, id="the stranger leaves"
        ),
        pytest.param(
            ON_CGROUP, touch("cgroup-replace", after=info(66)), "link-updated", id="cgroup, updated"
        ),
        pytest.param(ON_CGROUP, touch("cgroup-detach"), "link-detached", id="cgroup, detached"),
        pytest.param(
            ON_CGROUP, touch("cgroup-attach", link_id=NONE, after=info(66)), "neighbour-added", id="beside us"
        ),
        pytest.param(
            ON_CGROUP,
            touch("cgroup-detach", link_id=NONE, before=info(66)),
            "neighbour-removed",
            id="beside us no longer",
        ),
        pytest.param(
            ON_CGROUP,
            touch("cgroup-replace", link_id=STRANGER, after=info(67)),
            "neighbour-added",
            id="a neighbour is swapped",
        ),
        pytest.param(
            ON_CGROUP,
            touch("cgroup-attach", link_id=NONE, attach_type=INGRESS.number, after=info(66)),
            None,
            id="another attach type",
        ),
        pytest.param(ON_CGROUP, touch("cgroup-release"), None, id="the cgroup goes"),
        pytest.param(ON_KPROBE, touch("slot-update", after=info(66)), "slot-changed", id="slot changed"),
        pytest.param(ON_KPROBE, touch("slot-delete"), "slot-emptied", id="slot emptied"),
        pytest.param(ON_KPROBE, touch("slot-update"), "slot-emptied", id="updated to nothing"),
    ],
)
def test_a_touch_has_a_kind(of: Record, seen: Touch, kind: str | None) -> None:
    change = meaning(of, LINK_ID, info(1))(seen)
    assert (change.kind if change else None) == kind


def test_a_link_that_is_being_made_is_not_ours_where_we_hold_none() -> None:
    change = meaning(ON_CGROUP, None, None)(touch("cgroup-attach", link_id=NONE, after=info(66)))
    assert change is not None
    assert change.kind == "neighbour-added"


def test_each_change_starts_where_the_one_before_ended() -> None:
    tell = meaning(ON_CGROUP, LINK_ID, info(1))
    touches = [
        touch("cgroup-replace", after=info(66)),
        touch("cgroup-attach", link_id=NONE, after=info(50)),
        touch("cgroup-replace", after=info(67)),
        touch("cgroup-detach"),
    ]
    told = [change for seen in touches if (change := tell(seen))]
    ids = [(c.before and c.before.id, c.after and c.after.id) for c in told]
    assert ids == [(1, 66), (None, 50), (66, 67), (67, None)]


class Scene:
    """A link, its sentinel, and what was told."""

    def __init__(self, *touches: Touch, begun: bool = True) -> None:
        self.links = Links()
        self.told: list[ForeignChange] = []
        self.ticks = TICKS
        health = Health(state=State.ACTIVE, reason="", since=NOW)
        held = Held(link=FakeLink(), program=FakeProgram())
        self.entry = Entry(record=replace(ON_XDP, hook=HOOK), health=health, held=held)
        self.links.add(self.entry)
        self.sentinel = FakeSentinel(*touches)
        self.witness = Witness(self.sentinel, self.links)
        if begun:
            self.witness.begun()
        self.telling = Telling(self.witness, self._publish, lambda: NOW, lambda: self.ticks)

    def _publish(self, news: News) -> None:
        assert isinstance(news, ForeignChange)
        self.told.append(news)

    def judged(self, prog_id: int) -> Verdict:
        facts = LinkFacts(id=LINK_ID, prog_id=ProgId(prog_id), hook=HOOK)
        found = Occupant(program=info(prog_id)) if prog_id != 1 else None
        status = Status(link=facts, hook=HOOK, occupant=found)
        program = FakeProgram()
        before = self.entry.health
        return judge(self.entry.record, before, status, program, fight=NO_FIGHT, now=NOW, ticks=self.ticks)

    def look(self, source: str, prog_id: int) -> None:
        self.witness.read_all()
        verdict = self.judged(prog_id)
        self.telling.look(self.entry, verdict, self.witness.take(self.entry), source, first=False)
        self.entry.health = verdict.health

    @property
    def lines(self) -> Sequence[tuple[str, str, int | None, bool]]:
        return [(c.kind, c.source, c.after.id if c.after else None, c.who is not None) for c in self.told]


def test_every_touch_is_told_and_the_look_adds_nothing() -> None:
    scene = Scene(touch("xdp-install", after=info(66)), touch("xdp-install", after=info(67)))
    scene.look("netlink", 67)
    scene.look("sweep", 67)
    assert scene.lines == [
        ("link-updated", "sentinel", 66, True),
        ("link-updated", "sentinel", 67, True),
    ]
    first, second = scene.told
    assert first.by is None, "it ran for a moment only"
    assert second.by is not None
    assert first.delay == 7
    assert first.view.health.state is State.TAMPERED


def test_a_record_that_is_late_is_waited_for() -> None:
    scene = Scene()
    scene.sentinel.late = [touch("xdp-install", after=info(66))]
    scene.look("sweep", 66)
    assert scene.lines == [("link-updated", "sentinel", 66, True)]


def test_a_record_that_is_very_late_is_not_told_again() -> None:
    scene = Scene()
    scene.look("sweep", 66)
    scene.sentinel.touches = [touch("xdp-install", after=info(66)), touch("xdp-install", after=info(67))]
    scene.look("sentinel", 67)
    assert scene.lines == [
        ("link-updated", "sweep", 66, False),
        ("link-updated", "sentinel", 67, True),
    ]


def test_the_same_again_after_a_guess_is_told() -> None:
    scene = Scene()
    scene.look("sweep", 66)
    scene.ticks = Micros(TICKS + 1000)
    scene.sentinel.touches = [touch("xdp-install", after=info(66), at=Micros(TICKS + 500))]
    scene.look("sentinel", 66)
    assert [source for _, source, _, _ in scene.lines] == ["sweep", "sentinel"]


def test_touches_go_to_the_links_on_the_hook() -> None:
    scene = Scene(touch("xdp-install", hook=XdpHook(IfIndex(88)), after=info(66)))
    scene.look("sentinel", 1)
    assert scene.told == []


def test_what_is_read_before_links_are_there_is_kept_for_them() -> None:
    scene = Scene(touch("xdp-install", after=info(66)), begun=False)
    ours = scene.links.pop("edge")
    scene.witness.read()
    scene.links.add(ours)
    assert len(scene.witness.take(ours)) == 1
    assert scene.witness.take(ours) == []
    scene.witness.begun()
    assert scene.witness.take(ours) == []


def test_what_happens_to_a_link_after_it_was_taken_back_waits_for_the_end_of_the_start() -> None:
    scene = Scene(touch("xdp-install", after=info(66)), begun=False)
    scene.witness.read()
    assert len(scene.witness.take(scene.entry)) == 1
    scene.sentinel.touches = [touch("xdp-install", after=info(67))]
    scene.witness.read()
    scene.witness.begun()
    assert scene.witness.touched() == ("edge",)
    assert [seen.after for seen in scene.witness.take(scene.entry)] == [info(67)]


def test_a_slot_is_a_hook_of_its_link() -> None:
    scene = Scene()
    slot = SlotHook(31)
    scene.entry.held = Held(link=FakeLink(slot_hook=slot), program=FakeProgram())
    assert slot in scene.entry.hooks()


def test_hooks_of_ended_links_are_followed_no_longer() -> None:
    scene = Scene()
    for hook in scene.entry.hooks():
        scene.witness.expect(hook)
    assert scene.sentinel.hooks == {HOOK}
    scene.links.drop(scene.entry.record.name)
    scene.witness.tidy()
    assert scene.sentinel.hooks == set()


@pytest.mark.parametrize(
    ("cgroup", "unit", "container"),
    [
        ("/system.slice/ssh.service", "ssh.service", ""),
        (f"/system.slice/docker-{'a1' * 32}.scope", f"docker-{'a1' * 32}.scope", "a1" * 32),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{'0' * 64}.scope/x", None, "0" * 64),
        (f"/docker/{'b' * 64}", "", "b" * 64),
        (f"/user.slice/{'b' * 63}", "", ""),
        ("", "", ""),
    ],
)
def test_a_culprit_is_told_by_its_cgroup(cgroup: str, unit: str | None, container: str) -> None:
    culprit = replace(BPFTOOL, cgroup=cgroup)
    assert culprit.container == container
    if unit is not None:
        assert culprit.unit == unit

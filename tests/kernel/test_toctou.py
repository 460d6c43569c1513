"""What was checked and changed before it is used: each check that has a use after it holds at the use too.

The manager itself, on the real kernel and store, with the change made exactly between the two.
"""

import fcntl
import gc
import os
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bpflinkd.config.receiver import receiver
from bpflinkd.core import attach_types
from bpflinkd.core.access import Unsanctioned
from bpflinkd.core.callers import Action, Caller, User
from bpflinkd.core.checks import Checked, Loaded
from bpflinkd.core.declared import Declarations
from bpflinkd.core.errors import BadProgram, NotAuthorized, NotOwner
from bpflinkd.core.grants import Grant, GrantedTarget
from bpflinkd.core.ids import Micros, UnixMicros
from bpflinkd.core.manager import Manager
from bpflinkd.core.model import Lifetime
from bpflinkd.core.requests import AttachRequest, DetachRequest, HeldBy, ReplaceRequest, TransferRequest
from bpflinkd.core.sources import Builtin, ObjectFile
from bpflinkd.core.targets import CgroupPlace, CgroupTarget, WantedTarget
from bpflinkd.kernel import sentinel
from bpflinkd.kernel.bpffs import PinDirectory
from bpflinkd.kernel.system import LinuxKernel
from bpflinkd.store.sqlite import SqliteStore
from bpflinkd.systemd import FdStore
from bpflinkd.trials import uptime
from tests.lab import World
from tests.lab.as_user import memfd
from tests.lab.compiled import program

ALICE, BOB, ROOT = Caller(uid=4001), Caller(uid=4002), Caller(uid=0)
PASS = Builtin(name="pass")
EGRESS, INGRESS = attach_types.by_name("egress"), attach_types.by_name("ingress")


@pytest.fixture
def place(world: World) -> str:
    return world.cgroup()


@pytest.fixture
def manager(world: World, place: str) -> Iterator[Manager]:
    store = SqliteStore(world.dir / "state")
    made = Manager(
        LinuxKernel(),
        PinDirectory(world.bpffs / "bpflinkd", FdStore()),
        store,
        lambda _news: None,
        lambda: UnixMicros(time.time_ns() // 1000),
        lambda: Micros(time.monotonic_ns() // 1000),
        uptime,
        receiver,
        sentinel.off(world.bpffs / "bpflinkd"),
        time.monotonic_ns,
    )
    made.start("a boot")
    made.reload(Declarations(), grants(place))
    yield made
    for view in made.views():
        made.end(view.record.name, "the test is over")
    store.close()


def grants(place: str, *, kernel_memory: bool = False, holder: Caller = ALICE) -> tuple[Grant, ...]:
    targets = (GrantedTarget(kind="cgroup", place=place, attach_type=EGRESS),)
    return (Grant(holder=holder.user, targets=targets, kernel_memory=kernel_memory),)


def attach(place: str, fd: int, *, target: WantedTarget | None = None) -> AttachRequest:
    where = target or CgroupTarget(path=place, attach_type=EGRESS)
    return AttachRequest(
        caller=ALICE, name="edge", target=where, program=ObjectFile(fd=fd, program="egress_count")
    )


def loaded(manager: Manager, request: AttachRequest | ReplaceRequest, checked: Checked) -> Loaded:
    return Loaded(manager.replacing.load(request.program, checked), checked.confined, checked.replaces)


@pytest.fixture
def image() -> Iterator[int]:
    fd = memfd(program("count").read_bytes())
    yield fd
    os.close(fd)


def own(manager: Manager, place: str) -> None:
    manager.attach(
        AttachRequest(
            caller=ALICE,
            name="edge",
            target=CgroupTarget(path=place, attach_type=EGRESS),
            program=PASS,
        )
    )


def fds() -> int:
    gc.collect()  # what earlier tests left
    return len(os.listdir("/proc/self/fd"))


ALICE_MAY = replace(ALICE, sanctions=frozenset({Action.CHANGE_OWN}))


def test_the_grant_went_while_the_program_was_loaded(manager: Manager, place: str, image: int) -> None:
    before = fds()
    request = attach(place, image)
    ready = loaded(manager, request, manager.check_attach(request))
    manager.reload(Declarations(), ())
    with pytest.raises(Unsanctioned) as refused:
        manager.attach(request, ready)
    assert isinstance(refused.value.refusal, NotAuthorized)
    assert (manager.views(), fds()) == ((), before)


def test_the_grant_was_narrowed_while_the_program_was_loaded(
    manager: Manager, place: str, image: int
) -> None:
    """What was loaded with a right that is gone is not put there."""
    manager.reload(Declarations(), grants(place, kernel_memory=True))
    request = attach(place, image)
    checked = manager.check_attach(request)
    assert checked.confined is not None
    assert checked.confined.kernel_memory
    ready = loaded(manager, request, checked)
    manager.reload(Declarations(), grants(place))
    before = fds()
    with pytest.raises(NotAuthorized, match="changed while the program was being loaded"):
        manager.attach(request, ready)
    assert manager.views() == ()
    assert fds() < before, "the program was let go"


def test_the_link_was_transferred_while_the_program_was_loaded(
    manager: Manager, place: str, image: int
) -> None:
    own(manager, place)
    request = ReplaceRequest(
        caller=ALICE_MAY, name="edge", program=ObjectFile(fd=image, program="egress_count")
    )
    ready = loaded(manager, request, manager.replacing.check(request))
    manager.ownership.transfer(TransferRequest(caller=ROOT, name="edge", owner=BOB.user, force=True))
    with pytest.raises(NotOwner, match=f"owned by uid {BOB.uid}"):
        manager.replacing.replace(request, ready)
    (view,) = manager.views()
    assert view.record.generation.number == 1


def test_the_link_was_replaced_by_another_of_its_name_while_the_program_was_loaded(
    manager: Manager, place: str, image: int
) -> None:
    own(manager, place)
    request = ReplaceRequest(
        caller=ALICE_MAY, name="edge", program=ObjectFile(fd=image, program="egress_count")
    )
    ready = loaded(manager, request, manager.replacing.check(request))
    manager.detach(DetachRequest(caller=ALICE_MAY, name="edge"))
    other = CgroupTarget(path=place, attach_type=INGRESS)
    manager.attach(AttachRequest(caller=ROOT, name="edge", target=other, program=PASS))
    with pytest.raises(NotOwner):
        manager.replacing.replace(request, ready)


def test_polkit_said_yes_to_the_owner_of_before(manager: Manager, place: str) -> None:
    """A yes to `change-own` is worth nothing once the link is another's."""
    own(manager, place)
    request = DetachRequest(caller=ALICE, name="edge")
    with pytest.raises(Unsanctioned) as asked:
        manager.detach(request)
    assert asked.value.action is Action.CHANGE_OWN
    manager.ownership.transfer(TransferRequest(caller=ROOT, name="edge", owner=BOB.user, force=True))
    with pytest.raises(NotOwner):
        manager.detach(replace(request, caller=ALICE.sanctioned(asked.value.action)))


def test_the_attach_type_that_the_program_tells_is_checked_when_it_is_known(
    manager: Manager, place: str
) -> None:
    """Granted is egress; the cgroup is named without a type, and the program says ingress."""
    fd = memfd(program("ingress").read_bytes())
    try:
        request = replace(
            attach(place, fd, target=CgroupPlace(path=place)), program=ObjectFile(fd=fd, program=None)
        )
        with pytest.raises(Unsanctioned, match="ingress"):
            manager.attach(request)
    finally:
        os.close(fd)
    assert manager.views() == ()


def test_a_file_that_can_still_be_written_is_not_read(manager: Manager, place: str) -> None:
    """A check of bytes that change after it is none, so they must be sealed."""
    fd = memfd(program("count").read_bytes(), sealed=False)
    try:
        with pytest.raises(BadProgram, match="seal"):
            manager.attach(attach(place, fd))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        with pytest.raises(BadProgram, match="seal"):
            manager.attach(attach(place, fd))
        every = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, every)
        assert manager.attach(attach(place, fd)).record.generation.program.name == "egress_count"
    finally:
        os.close(fd)


def test_a_lapse_of_a_holder_that_was_followed_by_another(manager: Manager, place: str) -> None:
    """The grace time ends while the link is being claimed: it lives on with the new holder."""
    holder, later = replace(ALICE_MAY, name=":1.7"), replace(ALICE_MAY, name=":1.8")
    manager.attach(
        AttachRequest(
            caller=holder,
            name="edge",
            target=CgroupTarget(path=place, attach_type=EGRESS),
            program=PASS,
            lifetime=Lifetime.OWNER,
            held=HeldBy(bus="a bus"),
        )
    )
    manager.ownership.claim(later, "edge", "a bus")
    manager.ownership.lapse("edge", ":1.7")
    assert [view.record.name for view in manager.views()] == ["edge"]
    manager.ownership.lapse("edge", ":1.8")
    assert manager.views() == ()


def test_an_owner_of_another_process_is_asked_of_the_account_database(manager: Manager, place: str) -> None:
    """Groups of a receiver are those of the host, whatever the giver says of them."""
    own(manager, place)
    request = TransferRequest(caller=ALICE_MAY, name="edge", owner=User(uid=BOB.uid))
    with pytest.raises(NotAuthorized, match="no grant"):
        manager.ownership.transfer(request)

"""Coming by programs, wherever they are from: which way each source of each caller goes."""

import hashlib
import os
from pathlib import Path
from typing import TypeAlias, assert_never

from bpflinkd.core.attach_types import AttachType
from bpflinkd.core.errors import BadProgram, BadTarget, HookGone, NotSupported
from bpflinkd.core.maps import AS_USUAL, MapWishes
from bpflinkd.core.model import Confinement
from bpflinkd.core.sources import (
    Builtin,
    Constants,
    ObjectFile,
    ObjectImage,
    PinnedProgram,
    ProgramById,
    ProgramFd,
    Source,
    SourceFile,
    SourceText,
    StoredObject,
    StoredSource,
    WantedProgram,
)
from bpflinkd.core.targets import CgroupPlace, Target, WantedTarget, XdpMode, XdpTarget
from bpflinkd.kernel import carrying, objects, program, xdp
from bpflinkd.kernel import compile as compiler
from bpflinkd.kernel.helper import Limits
from bpflinkd.kernel.loading import Carry
from bpflinkd.kernel.program import HeldProgram

Opened: TypeAlias = ObjectImage | SourceText | PinnedProgram | ProgramById | ProgramFd | Builtin
"""A wanted program whose file, if it has one, was read."""


class ProgramOpener:
    """Loads and finds programs. What is root's is loaded here, what is not in a process of its own."""

    def __init__(self, limits: Limits, compiler_socket: Path | None, *, log_level: int = 0) -> None:
        """
        Args:
            log_level: as for `loading.load`.
            limits: for each compile of C, and for each load of an object that is not root's.
            compiler_socket: where the processes for both wait to be asked; None: each is started as a child.
        """
        self._limits = limits
        self._compiler_socket = compiler_socket
        self._log_level = log_level

    def open(
        self,
        wanted: WantedProgram,
        target: WantedTarget,
        *,
        given: bool = False,
        confined: Confinement | None = None,
        replaces: HeldProgram | None = None,
        wishes: MapWishes = AS_USUAL,
    ) -> HeldProgram:
        """Load or find a program; see `core.ports.Kernel.open_program`."""
        wanted = read(wanted, sealed=confined is not None)
        match wanted:
            case ObjectImage(data=data, program=name, constants=constants):
                with carrying.opened(replaces, wishes) as carry:
                    return self._load(data, name, target, confined, constants, carry, given=given)
            case SourceText(data=data, program=name):
                with carrying.opened(replaces, wishes) as carry:
                    return self._compile(data, name, target, confined, carry)
        carrying.refuse_choices(wishes, str(wanted))
        match wanted:
            case PinnedProgram(path=path):
                assert confined is None
                return program.from_pin(path, wanted)
            case ProgramById(id=prog_id):
                assert confined is None
                return program.from_id(prog_id, wanted)
            case ProgramFd(fd=fd):
                program.require_program_fd(fd, "the descriptor")
                return HeldProgram(os.dup(fd), ProgramFd())
            case Builtin():
                attach_type = _attach_type(target)
                if attach_type is None:
                    raise BadTarget(
                        f"{wanted} fits every attach type of {target}; choose one with --attach-type"
                    )
                return objects.load_builtin(wanted, attach_type)
            case _:
                assert_never(wanted)

    def _load(
        self,
        image: bytes,
        name: str | None,
        target: WantedTarget,
        confined: Confinement | None,
        constants: Constants,
        carry: Carry | None,
        *,
        given: bool,
    ) -> HeldProgram:
        attach_type, ifindex = _attach_type(target), _device(target)
        if confined is None:
            return objects.load(
                image,
                name,
                attach_type,
                given=given,
                ifindex=ifindex,
                constants=constants,
                carry=carry,
                log_level=self._log_level,
            )
        if ifindex:
            raise NotSupported(
                f"a program for {target} would be loaded onto the device, which only root's can be; "
                "use another mode of XDP"
            )
        return objects.load_confined(
            image,
            name,
            attach_type,
            confined,
            given=given,
            constants=constants,
            carry=carry,
            limits=self._limits,
            compiler_socket=self._compiler_socket,
            log_level=self._log_level,
        )

    def _compile(
        self,
        source: bytes,
        name: str | None,
        target: WantedTarget,
        confined: Confinement | None,
        carry: Carry | None,
    ) -> HeldProgram:
        attach_type = _attach_type(target)
        if attach_type is None:
            raise BadTarget(f"C source does not say where on {target} it belongs; choose with --attach-type")
        compiler.check_source(source)
        return compiler.compile_source(
            source,
            name,
            attach_type,
            confined=confined,
            carry=carry,
            limits=self._limits,
            compiler_socket=self._compiler_socket,
            log_level=self._log_level,
        )

    def reload(
        self,
        source: Source,
        image: bytes | None,
        target: Target,
        confined: Confinement | None = None,
        replaces: HeldProgram | None = None,
        wishes: MapWishes = AS_USUAL,
    ) -> HeldProgram:
        """Load a program again; see `core.ports.Kernel.reload_program`."""
        attach_type = _attach_type(target)
        match source:
            case StoredObject(program=name, constants=constants) if image is not None:
                with carrying.opened(replaces, wishes) as carry:
                    return self._load(image, name, target, confined, constants, carry, given=True)
            case StoredSource(program=name) if image is not None:
                with carrying.opened(replaces, wishes) as carry:
                    return self._compile(image, name, target, confined, carry)
            case Builtin() if attach_type is not None:
                return objects.load_builtin(source, attach_type)
            case PinnedProgram(path=path):
                assert confined is None
                # Whoever pinned it does so again after a reboot: it must be of the same kind then.
                pinned = program.from_pin(path, source)
                if attach_type is not None and pinned.fits(attach_type):
                    return pinned
                pinned.close()
                raise BadProgram(f"the program at {path} does not fit {target} any more")
            case _:
                raise BadProgram(
                    f"the program came from {source}, is not loaded any more and cannot be loaded "
                    "again from there; replace it with one that can"
                )


def read(wanted: WantedProgram, *, sealed: bool) -> Opened:
    """Read the file of a program, if it has one; see `core.ports.Kernel.read_program`."""
    match wanted:
        case ObjectFile(fd=fd, program=name, constants=constants, part=part):
            data = objects.read_object(fd, sealed=sealed, part=part)
            return ObjectImage(data=data, sha256=_sha256(data), program=name, constants=constants)
        case SourceFile(fd=fd, program=name, part=part):
            data = compiler.read_source(fd, sealed=sealed, part=part)
            return SourceText(data=data, sha256=_sha256(data), program=name)
        case _:
            return wanted


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _attach_type(target: WantedTarget) -> AttachType | None:
    return None if isinstance(target, CgroupPlace) else target.attach_type


def _device(target: WantedTarget) -> int:
    """The device that an offloaded program must be loaded onto; 0 for the host."""
    if not isinstance(target, XdpTarget) or target.mode is not XdpMode.OFFLOAD:
        return 0
    hook = xdp.hook(target.interface)
    if hook is None:
        raise HookGone(
            f"there is no interface {target.interface!r}, and an offloaded program is loaded onto it"
        )
    return hook.ifindex

"""A virtual machine with a disk of its own: boot, run commands, power off, boot again."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from integration.guest.kernels import Kernel

MEMORY: Final = "2G"
BOOT_SECONDS: Final = 400.0
"""To the agent's first line; some 60 s under emulation when nothing else runs."""
OFF_SECONDS: Final = 240.0
_GRACE: Final = 60.0
"""For the agent to tell that a command took too long."""
_CONSOLE_TAIL: Final = 4000
# mitigations: they cost much under emulation, and protect nothing here.
# panic: it asks for a reset, which with -no-reboot is the end of the emulator.
_KERNEL_WORDS: Final = "console=ttyS0 panic=-1 loglevel=5 mitigations=off audit=0 systemd.show_status=1"


class GuestError(Exception):
    """The guest died, hangs or does not answer; a sentence with what its console printed last."""


class CommandFailed(Exception):
    """A command in the guest that had to succeed."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that came to its end."""

    code: int
    stdout: str
    stderr: str


class Guest:
    """One machine; the same through all its boots."""

    def __init__(self, kernel: Kernel, initramfs: Path, disk: Path, results: Path) -> None:
        self.kernel = kernel
        self.boots = 0
        self.boot_id = ""
        self._initramfs = initramfs
        self._disk = disk
        self._results = results
        self._emulator: subprocess.Popen[bytes] | None = None
        self._port: socket.socket | None = None
        self._heard = b""
        # The path of a socket may have 107 bytes, which a checkout's may leave no room for.
        self._place = Path(tempfile.mkdtemp(prefix="bpflinkd-guest-"))

    @property
    def console(self) -> Path:
        """What the console of the latest boot printed."""
        return self._results / f"console-{self.boots}"

    def boot(self) -> None:
        """Power on, and wait for the agent.

        Raises:
            GuestError: it does not come up.
        """
        self.boots += 1
        self._heard = b""
        with (self._results / "emulator").open("wb") as said:
            self._emulator = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._port = self._connect()
        self.boot_id = str(self._hear(BOOT_SECONDS, "to boot")["boot"])

    def run(
        self, *argv: str | Path, seconds: float = 150, check: bool = True, given: str | None = None
    ) -> Done:
        """Run one command.

        Raises:
            CommandFailed: its exit code is not 0, with `check`; or it took longer than `seconds`.
            GuestError: no answer.
        """
        words = [str(word) for word in argv]
        request = {"argv": words, "input": given, "seconds": seconds}
        shown = " ".join(words)
        try:
            assert self._port, "the guest is not running"
            self._port.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise GuestError(f"{shown}: {self._state()}") from error
        answer = self._hear(seconds + _GRACE, shown)
        told = f"{answer['stdout']}{answer['stderr']}"
        if answer["code"] is None:
            raise CommandFailed(f"{shown}: not done after {seconds:g} s; it printed: {told}")
        if check and answer["code"] != 0:
            raise CommandFailed(f"{shown}: exit {answer['code']}: {told}")
        return Done(int(str(answer["code"])), str(answer["stdout"]), str(answer["stderr"]))

    def reboot(self) -> None:
        """Shut down in good order, and boot from the same disk."""
        self.power_off()
        self.boot()

    def power_off(self) -> None:
        """Shut down in good order.

        Raises:
            GuestError: it does not end.
        """
        assert self._emulator
        self.run("systemctl", "poweroff", "--no-block")
        try:
            self._emulator.wait(OFF_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise GuestError(f"not off after {OFF_SECONDS:g} s; {self._state()}") from error
        finally:
            self._end()

    @property
    def running(self) -> bool:
        """Whether the emulator runs."""
        return self._emulator is not None and self._emulator.poll() is None

    def close(self) -> None:
        """Pull the plug, where it still runs."""
        self._end()
        shutil.rmtree(self._place, ignore_errors=True)

    def _end(self) -> None:
        """End the emulator, by its id."""
        if self._port is not None:
            self._port.close()
            self._port = None
        if self._emulator is None:
            return
        if self._emulator.poll() is None:
            os.kill(self._emulator.pid, signal.SIGTERM)
            try:
                self._emulator.wait(10)
            except subprocess.TimeoutExpired:
                self._emulator.kill()
                self._emulator.wait()
        self._emulator = None

    def _command(self) -> list[str]:
        # One processor: several that take turns on one thread are slower, and threads of their own may
        # meet the int3 that the kernel puts where it patches code after it is done (see machine.py).
        kvm = bool(os.environ.get("BPFLINKD_KVM"))
        return [
            "qemu-system-x86_64",
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", "q35", "-accel", "kvm" if kvm else "tcg,thread=single", "-cpu", "max"),
            *("-smp", "1", "-m", MEMORY),
            *("-kernel", str(self.kernel.image), "-initrd", str(self._initramfs), "-append", _KERNEL_WORDS),
            *("-serial", f"file:{self.console}"),
            *("-drive", f"file={self._disk},format=raw,if=virtio,cache=unsafe"),
            *("-chardev", f"socket,id=agent,path={self._place}/agent,server=on,wait=on"),
            *("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=test.agent"),
        ]

    def _connect(self) -> socket.socket:
        """The emulator waits for this before it starts the machine."""
        deadline = time.monotonic() + 30
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while True:
            try:
                made.connect(str(self._place / "agent"))
                return made
            except OSError as error:
                if not self.running or time.monotonic() > deadline:
                    made.close()
                    raise GuestError(f"no connection to the emulator; {self._state()}") from error
                time.sleep(0.1)

    def _hear(self, seconds: float, what: str) -> dict[str, object]:
        """The next line from the agent."""
        assert self._port
        deadline = time.monotonic() + seconds
        while b"\n" not in self._heard:
            self._port.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                part = self._port.recv(1 << 16)
            except TimeoutError as error:
                raise GuestError(f"{what}: no answer in {seconds:g} s; {self._state()}") from error
            if not part:
                raise GuestError(f"{what}: the guest is gone; {self._state()}")
            self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    def _state(self) -> str:
        texts = (self._results / "emulator", self.console)
        told = "".join(text.read_text(errors="replace")[-_CONSOLE_TAIL:] for text in texts if text.exists())
        state = "runs" if self.running else "has ended"
        return f"the emulator {state}; the console printed last: {told or 'nothing'}"

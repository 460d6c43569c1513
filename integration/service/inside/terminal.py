"""Runs in the guest: a command on a terminal of its own, where somebody types a password once.

`terminal.py PASSWORD COMMAND...`: prints what the terminal shows, and ends with the command's exit code.
"""

import os
import pty
import sys
import time

_THINKING = 2.0
"""Seconds between the question and the answer: what is typed before the echo is off is thrown away."""


def main(password: str, command: list[str]) -> int:
    """Run the command and type."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    shown, typed = b"", False
    while part := _read(terminal):
        shown += part
        if not typed and b"Password: " in shown:
            time.sleep(_THINKING)
            os.write(terminal, password.encode() + b"\n")
            typed = True
    _, status = os.waitpid(pid, 0)
    sys.stdout.write(shown.decode(errors="replace"))
    return os.waitstatus_to_exitcode(status)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""  # EIO: nobody has the other end any more


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))

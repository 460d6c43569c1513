"""polkit's agent for the terminal, which asks for a password while a command of ours waits.

It goes before an agent of the session: who typed `--ask` sits at this terminal. And polkit 122 does not find
one that was registered as a fallback where the process is in no session.
"""

import os
import shutil
import subprocess
import sys


class Agent:
    """`pkttyagent` for this process; none where it is not needed, not installed or cannot ask anybody."""

    def __init__(self) -> None:
        """Start it, and wait until polkit knows of it."""
        self._process: subprocess.Popen[bytes] | None = None
        # polkit is never asked about root.
        asks = os.geteuid() != 0 and sys.stdin is not None and sys.stdin.isatty()
        # setpriv, so that the agent does not stay behind when we are killed.
        command = ["setpriv", "--pdeathsig", "TERM", "pkttyagent", "--notify-fd"]
        if not asks or not shutil.which("setpriv") or not shutil.which("pkttyagent"):
            return
        ready, notify = os.pipe()
        try:
            self._process = subprocess.Popen([*command, str(notify)], pass_fds=[notify])
        finally:
            os.close(notify)
            with open(ready, "rb") as told:
                told.read()  # ends when the agent is registered, or has failed and ended

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

"""Runs in the guest: takes commands as JSON lines from a virtio-serial port, one after the other.

A request is {"argv": [...], "input": text, "seconds": limit}; the answer is {"code", "stdout", "stderr"},
with the code null where the limit was reached. The first line says which boot this is.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def main(place: str) -> None:
    """Serve until the guest is powered off."""
    with Path(place).open("r+b", buffering=0) as port:

        def say(message: dict[str, Any]) -> None:
            line = json.dumps(message).encode() + b"\n"
            while line:
                line = line[port.write(line) or 0 :]

        say({"boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip()})
        waiting = b""
        while True:
            waiting += port.read(65536)
            while b"\n" in waiting:
                line, _, waiting = waiting.partition(b"\n")
                say(perform(json.loads(line)))


def perform(request: dict[str, Any]) -> dict[str, Any]:
    """Run one command to its end."""
    try:
        done = subprocess.run(
            request["argv"],
            input=request["input"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=request["seconds"],
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        told = [part.decode(errors="replace") if part else "" for part in (error.stdout, error.stderr)]
        return {"code": None, "stdout": told[0], "stderr": told[1]}
    except OSError as error:
        return {"code": 127, "stdout": "", "stderr": str(error)}
    return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


if __name__ == "__main__":
    main(sys.argv[1])

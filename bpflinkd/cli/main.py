"""The entry point: runs a command and turns whatever comes of it into an exit code.

Nothing that takes time to import is imported before it is needed.
"""

# ruff: noqa: PLC0415  # nothing is imported before it is needed

import gc
import os
import sys
from typing import Final

from bpflinkd.cli.settings import Settings

PROGRAM: Final = "bpflinkctl"
COMPLETE: Final = "_BPFLINKCTL_COMPLETE"
"""Set by the completion scripts: which answer the shell wants."""


def main(arguments: list[str] | None = None) -> int:
    """Run `bpflinkctl`; returns the exit code."""
    settings = Settings()
    if arguments is None:
        arguments = sys.argv[1:]
        # The process is ours: what it makes lives until it ends, looking for garbage is time lost.
        gc.disable()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments, settings)
        if sys.stdout is not None:
            sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        from bpflinkd.cli import failures

        code = failures.report(error, settings, arguments)
    finally:
        settings.close()
    if not gc.isenabled():
        gc.freeze()  # or the interpreter looks for garbage as it ends
    return code


def _run(arguments: list[str], settings: Settings) -> int:
    if COMPLETE in os.environ:
        from bpflinkd.cli import completion

        return completion.answer(PROGRAM, COMPLETE, os.environ[COMPLETE])
    from click.exceptions import Exit

    from bpflinkd.cli.group import bpflinkctl

    try:
        with bpflinkctl.make_context(PROGRAM, arguments, obj=settings) as context:
            bpflinkctl.invoke(context)
    except Exit as end:
        return end.exit_code
    return 0

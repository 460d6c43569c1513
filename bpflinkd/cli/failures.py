"""Whatever went wrong, as one sentence and an exit code. A user never sees a traceback."""

# ruff: noqa: PLC0415  # needed only when something failed

import json
import os
import sys
from typing import Any, Final

from bpflinkd.cli.settings import Settings

DONE: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
NO_DAEMON: Final = 3
NOT_ALLOWED: Final = 4
INTERRUPTED: Final = 130
"""128 + SIGINT, what a shell makes of a program that Ctrl-C ended."""


class InputError(Exception):
    """Something given on the command line cannot be used, and it is not a matter of usage."""

    def __init__(self, sentence: str, log: str = "") -> None:
        """`log`: lines that follow the sentence."""
        super().__init__(sentence)
        self.log = log


def report(error: BaseException, settings: Settings, arguments: list[str]) -> int:
    """Tell the user; returns the exit code."""
    if isinstance(error, BrokenPipeError):
        _let_go_of_stdout()
        # Whoever read has seen enough, as `head` does; what was asked is done.
        return DONE
    if isinstance(error, KeyboardInterrupt):
        _say("", "interrupted", "")
        return INTERRUPTED
    try:
        return _tell(error, settings, arguments)
    except BrokenPipeError:
        _let_go_of_stdout()
        return REFUSED


def _tell(error: BaseException, settings: Settings, arguments: list[str]) -> int:
    # Before the options were read, `settings` does not know yet.
    as_json = settings.json or "--json" in arguments
    code, name, sentence, log = _explain(error)
    if code == NOT_ALLOWED and not settings.ask and _polkit_could(name, arguments):
        sentence += "; --ask lets polkit ask for an administrator's password"
    if as_json:
        document = {"error": {"name": name, "message": sentence, "log": log}}
        print(json.dumps(document), flush=True)
    elif code == USAGE and hasattr(error, "show"):
        error.show()
    else:
        _say(name, sentence, log)
    return code


def _polkit_could(name: str, arguments: list[str]) -> bool:
    """Whether polkit might allow it. It is not asked about root, nor for another's link without force."""
    return os.geteuid() != 0 and (name == "NotAuthorized" or (name == "NotOwner" and "--force" in arguments))


def _explain(error: BaseException) -> tuple[int, str, str, str]:
    """Exit code, name, sentence, log."""
    if isinstance(error, InputError):
        return REFUSED, "BadInput", str(error), error.log
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return REFUSED, "OSError", f"{where}{error.strerror or error}", ""

    from click import ClickException

    if isinstance(error, ClickException):
        return USAGE, "Usage", error.format_message(), ""
    return _explain_answer(error)


def _explain_answer(error: BaseException) -> tuple[int, str, str, str]:
    from bpflinkd.client.errors import ClientError, NoDaemon, NotAllowed

    if isinstance(error, ClientError):
        code = REFUSED
        if isinstance(error, NoDaemon):
            code = NO_DAEMON
        elif isinstance(error, NotAllowed):
            code = NOT_ALLOWED
        return code, error.name, error.sentence, error.log
    if os.environ.get("BPFLINKCTL_DEBUG"):
        raise error
    sentence = (
        f"bpflinkctl met an unexpected {type(error).__name__}: {error}; this is a fault of its own, "
        "please report it with what BPFLINKCTL_DEBUG=1 shows"
    )
    return REFUSED, "Internal", sentence, ""


def _say(name: str, sentence: str, log: str) -> None:
    if sys.stderr is None:
        return
    # A user's terminal is not for others to control, and a message can quote anything.
    from bpflinkd.cli.words import clean

    lines = [f"bpflinkctl: {name}: {clean(sentence)}" if name else f"bpflinkctl: {clean(sentence)}"]
    if log:
        lines += ["", *(clean(line) for line in log.expandtabs().splitlines())]
    try:
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    except BrokenPipeError:
        _let_go_of(sys.stderr)


def _let_go_of_stdout() -> None:
    _let_go_of(sys.stdout)


def _let_go_of(stream: Any) -> None:
    """Send what is still buffered to nowhere, so that the interpreter's last flush succeeds."""
    with open(os.devnull, "w") as nowhere:  # pathlib takes time to import
        os.dup2(nowhere.fileno(), stream.fileno())

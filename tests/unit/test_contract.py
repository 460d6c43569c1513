"""Names that others rely on: a change here is a change of the contract."""

import re
from importlib import resources
from pathlib import Path

from bpflinkd.core import errors
from bpflinkd.core.callers import Action
from bpflinkd.core.events import ChangeKind
from bpflinkd.core.model import Lifetime, Policy, State
from bpflinkd.dbus import wire

CONTRACT = resources.files("bpflinkd.dbus").joinpath("interface.xml").read_text()


def test_error_names_are_frozen() -> None:
    assert [error.__name__ for error in errors.ALL_ERRORS] == [
        "NotAuthorized",
        "NotOwner",
        "LimitExceeded",
        "NoSuchLink",
        "NameTaken",
        "BadName",
        "BadTarget",
        "BadProgram",
        "BadOption",
        "StaleGeneration",
        "WrongProgramType",
        "IncompatibleMaps",
        "NoSuchGeneration",
        "NotInTrial",
        "InTrial",
        "VerifierRejected",
        "HookBusy",
        "HookGone",
        "NotSupported",
        "StorageFailed",
        "KernelRefused",
        "Internal",
    ]
    everything = {e for e in vars(errors).values() if isinstance(e, type)} - {errors.BpflinkdError}
    assert set(errors.ALL_ERRORS) == everything
    assert errors.HookBusy("x").dbus_name == "org.bpflinkd1.Error.HookBusy"


def test_a_log_follows_the_sentence_after_an_empty_line() -> None:
    assert errors.VerifierRejected("no", log="line").dbus_message == "no\n\nline"
    assert errors.HookBusy("no").dbus_message == "no"


def test_errors_named_in_the_contract_exist() -> None:
    known = {error.__name__ for error in errors.ALL_ERRORS}
    for listed in re.findall(r"Errors: ([A-Za-z, ]+)\.", CONTRACT):
        assert set(listed.split(", ")) <= known


def test_words_of_the_contract_are_those_of_the_core() -> None:
    for word in (*State, *ChangeKind, *Policy, *Lifetime, *Action):
        assert word in CONTRACT


def test_object_paths() -> None:
    assert wire.path_of("eth0.100") == "/org/bpflinkd1/link/eth0_2e100"


def test_every_error_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "dbus.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [e.__name__ for e in errors.ALL_ERRORS]


def test_every_kind_of_change_and_state_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "watching.md").read_text()
    for word in (*ChangeKind, *Policy, *(state for state in State if state is not State.FAILED)):
        assert f"`{word}`" in page

"""Configuration: defaults, then `bpflinkd.toml` of the configuration directory, then the command line."""

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from bpflinkd.config import listen

FILE_NAME: Final = "bpflinkd.toml"
SHORTEST_SWEEP: Final = 0.01
LONGEST_SWEEP: Final = 3600.0
SHORTEST_COMPILE: Final = 1.0
LONGEST_COMPILE: Final = 3600.0
FEWEST_EVENTS: Final = 100
MOST_EVENTS: Final = 1_000_000
MOST_GENERATIONS: Final = 1000


class ConfigError(Exception):
    """A sentence that names the file or option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that can be set."""

    bus: str = "system"
    """`system`, `session` or a D-Bus address."""
    config_dir: Path = Path("/etc/bpflinkd")
    state_dir: Path = Path("/var/lib/bpflinkd")
    bpffs: Path = Path("/sys/fs/bpf/bpflinkd")
    runtime_dir: Path = Path("/run/bpflinkd")
    foreground: bool = False
    """Log to standard error even where the journal could be reached."""
    sweep_interval: float = 5.0
    """Seconds between two sweeps."""
    sentinel: bool = True
    """Have a program of ours in the kernel tell who changes what, where the kernel allows it."""
    events_kept: int = 10_000
    """Entries of the event log; the oldest give way."""
    history_kept: int = 16
    """Generations of each link that are kept, with their programs; the oldest give way."""
    metrics_listen: listen.Listen | None = None
    """Where metrics for Prometheus are offered; None: nowhere."""
    count_runs: bool = False
    """Have the kernel count runs of programs all the time, not only while somebody asks."""
    compile_timeout: float = 60.0
    """Seconds that compiling one C source may take."""
    compiler_socket: Path | None = None
    """Where compilers of C wait to be asked; without one each is started for it."""


_SETTINGS: Final = {
    "bus": "text",
    "state-dir": "path",
    "bpffs": "path",
    "runtime-dir": "path",
    "sweep-interval": "number",
    "sentinel": "boolean",
    "events-kept": "whole number",
    "history-kept": "whole number",
    "metrics-listen": "text",
    "count-runs": "boolean",
    "compile-timeout": "number",
    "compiler-socket": "path",
}


def load(config_dir: Path, given: dict[str, Any]) -> Config:
    """Read the file, where there is one, and put what the command line gave over it."""
    read = _read(config_dir / FILE_NAME)
    merged = {**read, **{key: value for key, value in given.items() if value is not None}}
    if "metrics_listen" in merged:
        merged["metrics_listen"] = _listen(merged["metrics_listen"])
    known = {field.name for field in fields(Config)}
    config = replace(Config(config_dir=config_dir), **{k: v for k, v in merged.items() if k in known})
    _check_range("sweep interval", config.sweep_interval, SHORTEST_SWEEP, LONGEST_SWEEP)
    _check_range("time to compile", config.compile_timeout, SHORTEST_COMPILE, LONGEST_COMPILE)
    _check_range("number of events kept", config.events_kept, FEWEST_EVENTS, MOST_EVENTS, unit="")
    _check_range("number of generations kept", config.history_kept, 2, MOST_GENERATIONS, unit="")
    return config


def _listen(text: str) -> listen.Listen:
    try:
        return listen.parse(text)
    except ValueError as error:
        raise ConfigError(f"metrics cannot be offered on {text!r}: {error}") from None


def _check_range(what: str, value: float, least: float, most: float, *, unit: str = " seconds") -> None:
    if not least <= value <= most:
        raise ConfigError(f"the {what} must be between {least:.7g} and {most:.7g}{unit}, not {value}")


def _read(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    return dict(_setting(path, key, value) for key, value in table.items())


def _setting(path: Path, key: str, value: object) -> tuple[str, object]:
    """One line of the file as the field and value that it sets."""
    if key not in _SETTINGS:
        raise ConfigError(f"{path}: there is no setting {key!r}; known: {', '.join(_SETTINGS)}")
    name = key.replace("-", "_")
    match _SETTINGS[key], value:
        case "number", (int() | float()) if not isinstance(value, bool):
            return name, float(value)
        case "whole number", int() if not isinstance(value, bool):
            return name, value
        case "boolean", bool():
            return name, value
        case "path", str():
            return name, Path(value)
        case "text", str():
            return name, value
    raise ConfigError(f"{path}: {key} must be a {_SETTINGS[key]}, not {value!r}")

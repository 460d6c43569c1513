"""Files of declared links for a private daemon."""

from pathlib import Path

from tests.lab.world import World

PASS = 'builtin = "pass"'


def link(name: str, target: str, program: str = PASS, *more: str) -> str:
    """One table; `program` is the inside of its inline table, `more` further lines."""
    lines = ("[[link]]", f'name = "{name}"', f'target = "{target}"', f"program = {{ {program} }}", *more)
    return "\n".join((*lines, ""))


def template(name: str, match: str, program: str = PASS) -> str:
    """One template of interfaces; `match` is the inside of its inline table."""
    lines = ("[[link]]", f'name = "{name}"', f"match = {{ {match} }}", f"program = {{ {program} }}")
    return "\n".join((*lines, ""))


def declare(world: World, file: str, *tables: str) -> Path:
    """Write one file of links.d; returns its path."""
    place = world.dir / "etc" / "links.d" / file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("\n".join(tables))
    return place

"""Paths that are wanted, with wildcards part by part, and what of them is there. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from bpflinkd.core.patterns import is_pattern, matches


def parts_of(path: str) -> tuple[str, ...]:
    """The parts of a path from the root; none for the root itself."""
    return tuple(part for part in path.split("/") if part)


def matching(pattern: str, children: Callable[[str], Iterable[str]]) -> Iterator[str]:
    """The paths that match a pattern now.

    Args:
        children: names of the directories in the directory at a path (the root's is empty); none
            where there is no such directory.
    """
    yield from _below("", parts_of(pattern), children)


def _below(path: str, parts: Sequence[str], children: Callable[[str], Iterable[str]]) -> Iterator[str]:
    part, rest = parts[0], parts[1:]
    if rest and not is_pattern(part):
        yield from _below(f"{path}/{part}", rest, children)  # where it is missing nothing will be below
        return
    for name in children(path):
        if name == part or (is_pattern(part) and matches(part, name)):
            if rest:
                yield from _below(f"{path}/{name}", rest, children)
            else:
                yield f"{path}/{name}"


class Wanted:
    """A tree of the wanted paths: what is wanted at, and below, a directory that matches so far."""

    __slots__ = ("_plain", "_wild", "followers")

    def __init__(self) -> None:
        self.followers = 0
        """How often this very path is wanted."""
        self._plain: dict[str, Wanted] = {}
        self._wild: dict[str, Wanted] = {}

    @property
    def deep(self) -> bool:
        """Whether something below is wanted."""
        return bool(self._plain or self._wild)

    @property
    def wild(self) -> bool:
        """Whether children are wanted by a wildcard: all of their names matter."""
        return bool(self._wild)

    @property
    def plain(self) -> tuple[str, ...]:
        """Names of children that are wanted as they stand."""
        return tuple(self._plain)

    def add(self, parts: Sequence[str]) -> None:
        """Want a path once more."""
        node = self
        for part in parts:
            edges = node._wild if is_pattern(part) else node._plain
            node = edges.setdefault(part, Wanted())
        node.followers += 1

    def remove(self, parts: Sequence[str]) -> bool:
        """Want a path once less. True where a directory may have no children any more that matter."""
        if not parts:
            self.followers -= 1
            return False
        edges = self._wild if is_pattern(parts[0]) else self._plain
        node = edges[parts[0]]
        emptied = node.remove(parts[1:])
        if not node.followers and not node.deep:
            del edges[parts[0]]
            return emptied or not self.deep
        return emptied

    def at(self, part: str) -> "Wanted | None":
        """What hangs at one part as it was written."""
        return (self._wild if is_pattern(part) else self._plain).get(part)

    def below(self, name: str) -> Iterator["Wanted"]:
        """What is wanted of a child of this name."""
        if (exact := self._plain.get(name)) is not None:
            yield exact
        for pattern, node in self._wild.items():
            if matches(pattern, name):
                yield node

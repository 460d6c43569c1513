"""What is recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bpflinkd.core.ids import LinkId
from bpflinkd.core.model import Generation, Outcome, Record, Told


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One link as the store has it."""

    record: Record | None
    """None where the link's first generation was never completed."""
    intent: Record | None
    """What was about to be done when the daemon ended, if anything."""
    ending: bool
    """A detach was decided and may be half done."""
    was: str = ""
    """What it was called when its pins were made, where they may not have followed yet."""
    link_id: LinkId | None = None
    """Our bpf_link; None where there is none, or nobody wrote down which it is."""
    told: Told | None = None
    """None while it is `active`."""
    together: bool = False
    """The intent is one of several that were to come to pass all or none."""

    @property
    def latest(self) -> Record:
        """The record, or the intent of a link that has no record yet."""
        found = self.record or self.intent
        assert found is not None
        return found


class Store(Protocol):
    """Durable records. Every method is one transaction; `StorageFailed` means nothing was written."""

    @property
    def kept(self) -> int:
        """How many generations of a link are kept, the present one among them."""

    def begin_boot(self, boot: str) -> frozenset[str]:
        """In the first start after a reboot: names of the ephemeral links, which are no more."""

    def load(self) -> tuple[Stored, ...]: ...
    def intend(self, record: Record, image: bytes | None, fallback: bytes | None = None) -> None: ...
    def forget_intent(self, name: str) -> None: ...
    def commit(self, record: Record, link_id: LinkId | None, left: Outcome | None = None) -> None:
        """What was intended is done. `left`: what became of the generation before."""

    def intend_together(self, records: Sequence[Record], images: Mapping[str, bytes]) -> None:
        """`intend` generations of links that there are, all or none, and note that they belong together.

        Args:
            images: files to keep, by sha256.
        """

    def forget_intents(self, names: Sequence[str]) -> None:
        """`forget_intent` of several, all or none."""

    def commit_together(self, records: Sequence[tuple[Record, LinkId | None, Outcome | None]]) -> None:
        """`commit` several, all or none."""

    def settle(self, record: Record) -> None:
        """Owner, policy, lifetime, origin or trial are others; nothing else is."""

    def note_hook(self, record: Record, link_id: LinkId) -> None:
        """The link is attached to another hook, by another bpf_link. Not durable: a loss of power ends it."""

    def rename(self, name: str, record: Record) -> None:
        """A link is called otherwise, and its target too; what it was called is kept."""

    def forget_old_name(self, name: str) -> None:
        """Its pins have followed."""

    def note_told(self, name: str, told: Told | None) -> None:
        """What was told of a link's state. Not durable: a loss of power ends what it is about as well."""

    def explain(self, record: Record, link_id: LinkId) -> None:
        """The current generation has another hook, bpf_link and message."""

    def amend(self, record: Record) -> None:
        """The current generation's program was loaded again and has another kernel id."""

    def mark_ending(self, name: str) -> None: ...
    def remove(self, name: str) -> None: ...
    def image(self, sha256: str) -> bytes | None: ...
    def history(self, name: str) -> tuple[Generation, ...]: ...
    def generation(self, name: str, number: int) -> Generation | None:
        """One of them; None where it is not kept."""

"""A replace that cannot be: refused with a sentence, and nothing is touched."""

from typing import Any, Final

from integration.demo.stage import LINK, Stage

TITLE: Final = "A refusal"
PROMISE: Final = "What is refused has touched nothing"


def play(stage: Stage) -> str:
    """Offer a cgroup program to an XDP link."""
    before = _facts(stage)
    said = stage.ctl("replace", LINK, "--object", "count.bpf.o", "--program", "egress_count", code=1)
    stage.hold(bool(said.strip()), "the refusal says nothing")
    after = _facts(stage)
    stage.hold(before == after, f"the link was {before}, and is {after}")
    return (
        f"exit code 1; link {LINK} unchanged at generation {after['Generation']}, "
        f"program {after['name']} (id {after['id']})"
    )


def _facts(stage: Stage) -> dict[str, Any]:
    link = stage.link()
    facts = {key: link[key] for key in ("State", "Generation", "KernelLinkId")}
    return facts | {key: link["Program"][key] for key in ("id", "name")}

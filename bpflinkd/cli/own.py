"""The commands about who owns and holds a link: claim, transfer, adopt."""

# ruff: noqa: PLC0415  # documents are for JSON

from typing import Any

import click

from bpflinkd.cli import words
from bpflinkd.cli.arguments import owner
from bpflinkd.cli.group import Command
from bpflinkd.cli.kinds import NAME, OWNER, POLICY, Text
from bpflinkd.cli.settings import Settings
from bpflinkd.client.attachments import Attachment, KernelLink, NetlinkXdp, PinnedLink

_U32 = click.IntRange(1, 2**32 - 1)

_CLAIM_HELP = """Hold the link NAME, of the lifetime owner, in place of whoever holds it or did.

It stays in the foreground; when it ends, by Ctrl-C or otherwise, the link's grace time begins.

\b
Example:
  bpflinkctl claim edge-filter
"""
_TRANSFER_HELP = """Make OWNER the owner of the link NAME: user:NAME, user:UID or unit:NAME.

\b
Examples:
  bpflinkctl transfer edge-filter user:tw
  bpflinkctl transfer edge-filter unit:tw-agent.service --force
"""
_ADOPT_HELP = """Own, under the name NAME, what somebody else attached. What runs goes on running.

A bpf_link is named by its kernel id or by a pin, as `bpftool link` shows them; XDP by netlink, as `ip link`
attaches it, by its interface. `bpflinkctl foreign` lists what there is. For administrators.

\b
Examples:
  bpflinkctl adopt edge-filter --link-id 17
  bpflinkctl adopt edge-filter --pin /sys/fs/bpf/edge --policy restore
  bpflinkctl adopt old-filter --xdp eth0
"""


@click.command("claim", cls=Command, help=_CLAIM_HELP, short_help="Hold a link of the lifetime owner.")
@click.argument("name", type=NAME)
@click.pass_obj
def claim_command(settings: Settings, name: str) -> None:
    """See `_CLAIM_HELP`."""
    from bpflinkd.cli import holding

    client = settings.client()
    client.claim(name)
    output = settings.output()
    if output.json:
        output.document_line({"name": name})
    holding.hold(settings, client, name)


@click.command("transfer", cls=Command, help=_TRANSFER_HELP, short_help="Give a link another owner.")
@click.argument("name", type=NAME)
@click.argument("owner", metavar="OWNER", type=OWNER)
@click.option(
    "--force", is_flag=True, help="Also another's link, and to one without a grant. For administrators."
)
@click.pass_obj
def transfer_command(settings: Settings, /, **given: Any) -> None:
    """See `_TRANSFER_HELP`."""
    name, receiver = given["name"], owner(given["owner"])
    client = settings.client()
    client.transfer(name, receiver, force=given["force"])
    now, output = client.link(name)["Owner"], settings.output()
    if output.json:
        from bpflinkd.cli import documents

        output.document({"name": name, "owner": documents.owner(now)})
    else:
        output.line(f"{name} is owned by {words.short_owner(now)}")


@click.command("adopt", cls=Command, help=_ADOPT_HELP, short_help="Own what somebody else attached.")
@click.argument("name", type=Text())
@click.option("--link-id", metavar="N", type=_U32, help="A bpf_link, by its kernel id.")
@click.option("--pin", metavar="PATH", type=Text(), help="A bpf_link that is pinned on a bpffs.")
@click.option("--xdp", metavar="INTERFACE", type=Text("interfaces"), help="The XDP program set by netlink.")
@click.option(
    "--policy", type=POLICY, help="What is done when somebody else changes the hook.  [default: alert]"
)
@click.option("--owner", metavar="OWNER", type=OWNER, help="Who may change it.  [default: you]")
@click.option("--force", is_flag=True, help="Also for an owner without a grant.")
@click.pass_obj
def adopt_command(settings: Settings, /, **given: Any) -> None:
    """See `_ADOPT_HELP`."""
    name, attachment = given["name"], _attachment(given)
    receiver = None if given["owner"] is None else owner(given["owner"])
    client, output = settings.client(), settings.output()
    path = client.adopt(name, attachment, policy=given["policy"], owner=receiver, force=given["force"])
    link = client.link(name)
    if output.json:
        from bpflinkd.cli import documents

        bpffs = client.status()["Paths"]["bpffs"]
        output.document({"object_path": path, **documents.link(link, bpffs)})
        return
    target, program = words.target(link["Target"]), words.full_program(link["Program"])
    output.line(f"{name} is {link['State']}: adopted {program} on {target}")
    if link["Message"]:
        output.line(link["Message"])


def _attachment(given: dict[str, Any]) -> Attachment:
    """The one that was given. Raises click's usage errors."""
    chosen: list[Attachment] = []
    if given["link_id"] is not None:
        chosen.append(KernelLink(given["link_id"]))
    if given["pin"] is not None:
        chosen.append(PinnedLink(given["pin"]))
    if given["xdp"] is not None:
        chosen.append(NetlinkXdp(given["xdp"]))
    if len(chosen) != 1:
        raise click.UsageError("give exactly one of --link-id, --pin and --xdp.")
    return chosen[0]

"""The commands that change links: attach, replace, detach."""

# ruff: noqa: PLC0415  # few links are held

from typing import Any

import click

from bpflinkd.cli.arguments import SourceOptions, fallback, owner, program, source_options, target
from bpflinkd.cli.group import Command
from bpflinkd.cli.kinds import NAME, OWNER, POLICY, Duration, Text
from bpflinkd.cli.options import after_a_swap, expect, force, map_options, message, trial_options
from bpflinkd.cli.settings import Settings
from bpflinkd.client import Client, ClientError
from bpflinkd.core.model import Lifetime
from bpflinkd.core.targets import XdpMode

_ATTACH_HELP = """Make a link named NAME: attach a program to TARGET and own it from then on.

TARGET is an interface (xdp:eth0); a cgroup by its path below the cgroup v2 root (cgroup:/web.slice),
with an attach type where the program does not tell it ("cgroup:/web.slice egress"); a kernel function
where it begins (kprobe:tcp_connect), at an offset (kprobe:tcp_connect+0x10) or where it returns
(kretprobe:tcp_connect); or every function that matches (kprobe-multi:tcp_*, kretprobe-multi:tcp_*).
The program is exactly one of --object, --source, --pinned, --id, --fd and --builtin.

With --lifetime owner the command stays in the foreground and holds the link. When it ends, by Ctrl-C or
otherwise, `bpflinkctl claim` may take the link over for the --grace time; then the --fallback takes its
place, or it ends.

\b
Examples:
  bpflinkctl attach edge-filter xdp:eth0 --object filter.bpf.o
  bpflinkctl attach edge-filter xdp:eth0 --mode generic --builtin pass
  bpflinkctl attach web-count cgroup:/web.slice --attach-type egress \\
      --object count.bpf.o --program count_egress
  bpflinkctl attach later xdp:wg0 --wait --policy restore --id 42
  bpflinkctl attach connects kprobe:tcp_connect --source connects.c --program on_connect
  bpflinkctl attach edge-filter xdp:eth0 --object filter.bpf.o --owner unit:tw-agent.service
  bpflinkctl attach debug xdp:eth0 --object dump.bpf.o --lifetime owner --grace 2s --fallback pass
"""

_REPLACE_HELP = """Swap the program of the link NAME atomically: the hook is never empty and never runs both.

Maps of the same name, type, sizes and flags go on being used, so counters and policies are kept. A map
that is different now is refused, unless --map or --fresh-maps says that it may begin empty. Constants
(.rodata) are the new program's; its variables (.data, .bss) begin anew unless --map .bss=keep says otherwise.

\b
Examples:
  bpflinkctl replace edge-filter --object filter-v2.bpf.o
  bpflinkctl replace edge-filter --object filter-v3.bpf.o --map drops=fresh -m "per port"
  bpflinkctl replace edge-filter --object filter-v3.bpf.o --set limit=1000
  bpflinkctl replace edge-filter --object filter-v4.bpf.o --confirm-within 60s
  bpflinkctl replace edge-filter --builtin pass --expect 3
  bpflinkctl replace edge-filter --builtin pass --force --ask
"""

_DETACH_HELP = """End the link NAME: its program leaves the hook, and bpflinkd forgets it.

\b
Example:
  bpflinkctl detach edge-filter
"""


@click.command("attach", cls=Command, help=_ATTACH_HELP, short_help="Attach a program and own the link.")
@click.argument("name", type=Text())
@click.argument("target", metavar="TARGET", type=Text("targets"))
@source_options
@click.option("--mode", type=click.Choice(list(map(str, XdpMode))), help="How XDP runs.  [default: auto]")
@click.option(
    "--attach-type",
    metavar="TYPE",
    type=Text("attach_types"),
    help="The cgroup's hook: ingress, egress, connect4, ...  [default: the program tells]",
)
@click.option(
    "--cookie",
    metavar="N",
    type=click.IntRange(0, 2**64 - 1),
    help="For kprobes: what bpf_get_attach_cookie tells the program.",
)
@click.option(
    "--policy",
    type=POLICY,
    help="What is done when somebody else changes the hook.  [default: alert]",
)
@click.option("--wait", is_flag=True, help="Accept a target that is not there yet.")
@click.option("--ephemeral", is_flag=True, help="End at the next reboot.  [default: attach again then]")
@click.option(
    "--lifetime",
    type=click.Choice(list(map(str, Lifetime))),
    help="When it ends by itself: never, at the next reboot, or with this command.  [default: pinned]",
)
@click.option(
    "--grace",
    metavar="TIME",
    type=Duration(),
    help="With --lifetime owner: how long it may be claimed after that.  [default: 10s]",
)
@click.option(
    "--fallback",
    metavar="BUILTIN|FILE",
    type=Text("builtins"),
    help="With --lifetime owner: the program that stays then, pass or an ELF object.  [default: none]",
)
@click.option("--owner", metavar="OWNER", type=OWNER, help="Who may change it.  [default: you]")
@message
@click.option("--force", is_flag=True, help="Also for an owner without a grant. For administrators.")
@click.pass_obj
def attach_command(settings: Settings, /, **given: Any) -> None:
    """See `_ATTACH_HELP`."""
    where = target(given["target"], given["mode"], given["attach_type"], given["cookie"])
    source, lifetime = program(_source(given)), _lifetime(given)
    name, receiver = given["name"], None if given["owner"] is None else owner(given["owner"])
    client = settings.client(doing=_compiling(given))
    path = client.attach(
        name,
        where,
        source,
        policy=given["policy"],
        wait=given["wait"],
        lifetime=lifetime,
        owner=receiver,
        grace=given["grace"],
        fallback=None if given["fallback"] is None else fallback(given["fallback"]),
        message=given["message"],
        force=given["force"],
    )
    _tell_attached(settings, client, name, path)
    if lifetime == Lifetime.OWNER:
        from bpflinkd.cli import holding

        holding.hold(settings, client, name)


def _lifetime(given: dict[str, Any]) -> str | None:
    """What was chosen, with what goes with it. Raises click's usage errors."""
    lifetime: str | None = given["lifetime"]
    if given["ephemeral"]:
        if lifetime not in (None, Lifetime.EPHEMERAL):
            raise click.UsageError(f"--ephemeral and --lifetime {lifetime} contradict each other.")
        lifetime = Lifetime.EPHEMERAL
    for option in ("grace", "fallback"):
        if given[option] is not None and lifetime != Lifetime.OWNER:
            raise click.UsageError(f"--{option} goes with --lifetime owner only.")
    return lifetime


def _tell_attached(settings: Settings, client: Client, name: str, path: str) -> None:
    try:
        link = client.link(name)
        state, reason = link["State"], link["Reason"]
    except ClientError:
        # It is attached, and that is what was asked; how it is now cannot be told.
        state, reason = None, ""
    output = settings.output()
    if output.json:
        output.document({"name": name, "object_path": path, "state": state, "reason": reason})
    else:
        output.line(f"{name} is {state or 'attached'}" + (f": {reason}" if reason else ""))


@click.command("replace", cls=Command, help=_REPLACE_HELP, short_help="Swap the program of a link.")
@click.argument("name", type=NAME)
@source_options
@expect
@map_options
@trial_options
@message
@force
@click.pass_obj
def replace_command(settings: Settings, /, **given: Any) -> None:
    """See `_REPLACE_HELP`."""
    after_a_swap(settings, given["name"], program(_source(given)), given, doing=_compiling(given))


@click.command("detach", cls=Command, help=_DETACH_HELP, short_help="End a link.")
@click.argument("name", type=NAME)
@force
@click.pass_obj
def detach_command(settings: Settings, /, name: str, **given: Any) -> None:
    """See `_DETACH_HELP`."""
    client = settings.client()
    try:
        file, template = client.link(name)["Origin"]
    except ClientError:
        file = template = ""  # the daemon says what is wrong, and better
    client.detach(name, force=given["force"])
    output = settings.output()
    if output.json:
        output.document({"name": name})
    elif template:
        output.line(
            f"{name} is detached; {template} of {file} makes it again at the next reload, or when "
            "its target comes anew"
        )
    elif file:
        output.line(f"{name} is detached; {file} declares it, so the next reload attaches it again")
    else:
        output.line(f"{name} is detached")


def _compiling(given: dict[str, Any]) -> str:
    return f"bpflinkd compiles {given['source']}" if given["source"] else ""


def _source(given: dict[str, Any]) -> SourceOptions:
    return SourceOptions(*(given[field] for field in SourceOptions._fields))

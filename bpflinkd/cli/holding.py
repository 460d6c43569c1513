"""Stay in the foreground while a link lives with our connection."""

from bpflinkd.cli import words
from bpflinkd.cli.settings import Settings
from bpflinkd.client import Client, Released


def hold(settings: Settings, client: Client, name: str) -> None:
    """Hold a link that this client holds already, until Ctrl-C, SIGTERM, or another has claimed it.

    SIGTERM ends us as it ends any program: the bus sees that we went.
    """
    output = settings.output()
    try:
        if not output.json:
            grace = client.link(name)["Hold"].get("grace", 0)
            output.line(f"holding {name}; it ends {words.duration(grace)} after this does")
        client.hold(name)
    except Released as error:
        if output.json:
            output.document_line({"name": name, "holder": error.holder or None})
        else:
            output.line(error.sentence)
    except KeyboardInterrupt:
        return

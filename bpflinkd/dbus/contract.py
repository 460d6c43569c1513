"""The names of interface.xml, for service and client alike. Imports nothing: a client starts once a call."""

from typing import Final

BUS_NAME: Final = "org.bpflinkd1"
ROOT: Final = "/org/bpflinkd1"
LINKS: Final = "/org/bpflinkd1/link/"
MANAGER: Final = "org.bpflinkd1.Manager"
LINK: Final = "org.bpflinkd1.Link"
OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"

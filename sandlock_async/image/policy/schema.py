"""The types inside sandlock's ``Sandbox``, and what a field of it is."""

from dataclasses import dataclass

from sandlock_async.image.bincode import (
    Bool,
    ByteArray,
    Enum,
    Kind,
    Option,
    Pairs,
    Struct,
    Text,
    Tuple,
    UInt,
    Vec,
)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the struct.

    :ivar name: as in sandlock's source
    :ivar kind: how it is written
    :ivar initial: what ``Sandbox()`` stores; None stands for the kind's empty value
    """

    name: str
    kind: Kind
    initial: object = None

    def default(self) -> object:
        """Return what ``Sandbox()`` stores, made anew."""
        return self.kind.empty() if self.initial is None else self.initial


def units(*names: str) -> Enum:
    """Return the kind of an enum whose variants carry nothing."""
    return Enum(tuple((name, None) for name in names))


BOOL = Bool()
U8, U16, U32, U64 = UInt(1), UInt(2), UInt(4), UInt(8)
TEXT = Text()
TEXTS = Vec(TEXT)
PORTS = Vec(U16)

OPTIONAL_TEXT = Option(TEXT)
OPTIONAL_U32 = Option(U32)
OPTIONAL_INDICES = Option(Vec(U32))
OPTIONAL_SIZE = Option(U64)
"""``ByteSize``: a number of bytes."""

SYSTEM_TIME = Struct(
    (
        # Rust on Linux keeps seconds in an i64: the loaders refuse what exceeds it.
        ("secs_since_epoch", UInt(8, limit=(1 << 63) - 1)),
        # A billion and more is let through, as sandlock carries it over.
        ("nanos_since_epoch", U32),
    )
)
OPTIONAL_TIME = Option(SYSTEM_TIME)

PROTOCOL = units("Tcp", "Udp", "Icmp")
IP_ADDRESS = Enum((("V4", ByteArray(4)), ("V6", ByteArray(16))))
IP_CIDR = Struct((("addr", IP_ADDRESS), ("prefix_len", U8)))
NET_TARGET = Enum((("AnyIp", None), ("Cidr", IP_CIDR), ("Host", TEXT)))
NET_ALLOW = Struct(
    (
        ("protocol", PROTOCOL),
        ("host", OPTIONAL_TEXT),
        ("ports", PORTS),
        ("all_ports", BOOL),
    )
)
"""v1's rule: a host as text, or None for any."""
NET_RULE = Struct(
    (
        ("protocol", PROTOCOL),
        ("target", NET_TARGET),
        ("ports", PORTS),
        ("all_ports", BOOL),
    )
)
BIND_PORTS = Enum((("Ports", PORTS), ("All", None)))
HTTP_RULE = Struct((("method", TEXT), ("host", TEXT), ("path", TEXT)))
HTTP_RULES = Vec(HTTP_RULE)

PROTECTIONS = (
    "FsRefer",
    "FsTruncate",
    "NetTcp",
    "FsIoctlDev",
    "SignalScope",
    "AbstractUnixSocketScope",
)
PROTECTION_POLICY = Pairs(
    units(*PROTECTIONS), units("Strict", "Degradable", "Disabled")
)

BRANCH_ACTION = units("Commit", "Abort", "Keep")
BRANCH_ACTION_V3 = units("Commit", "Abort", "Keep", "Defer")
MOUNTS = Vec(Tuple((TEXT, TEXT)))
"""Virtual path and host path of each."""
ENVIRONMENT = Pairs(TEXT, TEXT)
RUN_AS = Struct((("uid", U32), ("gid", U32)))

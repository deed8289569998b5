"""How a user of sandlock writes sizes, times, ports and HTTP rules.

The grammars are those of its Rust core. Where the releases differ, all that any of
them takes is taken: a sandbox that exists has been through its own release's check.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

MAX_PORT = 0xFFFF

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"\s*\+?(\d+)(\.\d+)?\s*([KMGT]?)\s*", re.IGNORECASE | re.ASCII)
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?"
    r"(?:([Zz])|([+-]\d\d:?\d\d))",
    re.ASCII,
)
_NUMBER = re.compile(r"\+?[0-9]+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_number(text: str, maximum: int) -> int | None:
    """Return a decimal number as Rust reads it, or None if it is none up to that."""
    if not _NUMBER.fullmatch(text) or len(text) > len(str(maximum)) + 20:
        return None
    number = int(text)
    return number if number <= maximum else None


def parse_size(value: object) -> int:
    """Return a number of bytes: ``1048576``, ``"512M"``, ``"1.5G"``.

    :raises ValueError: if it is none
    """
    if isinstance(value, int):
        return value
    match = _SIZE.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a size")
    whole, fraction, unit = match.groups()
    scale = _UNITS[unit.upper()]
    # Whole numbers exactly: a float has only 53 bits.
    return int(float(whole + fraction) * scale) if fraction else int(whole) * scale


def parse_time(value: object) -> dict[str, object]:
    """Return a time since 1970: seconds, an aware datetime, or RFC 3339 text.

    Seconds lose their fraction, as in 0.8.2 and 0.8.6.

    :raises ValueError: if it is none, or before 1970
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value} has no offset from UTC")
        seconds, rest = divmod(value - _EPOCH, timedelta(seconds=1))
        nanoseconds = rest // timedelta(microseconds=1) * 1000
    elif isinstance(value, int | float):
        seconds, nanoseconds = int(value), 0
    elif match := _TIME.fullmatch(str(value)):
        date, time, fraction, zulu, offset = match.groups()
        moment = datetime.fromisoformat(f"{date}T{time}{'+00:00' if zulu else offset}")
        seconds = (moment - _EPOCH) // timedelta(seconds=1)
        nanoseconds = int((fraction or "").ljust(9, "0"))
    else:
        seconds, nanoseconds = int(str(value)), 0
    if seconds < 0:
        raise ValueError(f"{value} is before 1970")
    return {"secs_since_epoch": seconds, "nanos_since_epoch": nanoseconds}


def parse_bind(specs: Iterable[object]) -> list[int] | None:
    """Return ports in order, each once, or None for all of them, ``"*"``.

    :raises ValueError: naming the part that is neither a port nor a range
    """
    parts = [part.strip() for spec in specs for part in str(spec).split(",")]
    if parts and all(part == "*" for part in parts):
        return None
    ports: set[int] = set()
    for part in parts:
        low, dash, high = part.partition("-")
        first = parse_number(low.strip(), MAX_PORT)
        last = parse_number(high.strip(), MAX_PORT) if dash else first
        if first is None or last is None or first > last:
            raise ValueError(f"{part!r} is neither a port nor a range of ports")
        ports.update(range(first, last + 1))
    return sorted(ports)


def parse_http(spec: str) -> dict[str, Any]:
    """Return a rule ``METHOD host/path``, its path in normal form.

    :raises ValueError: if it is none
    """
    words = spec.split(None, 1)
    if len(words) < 2:
        raise ValueError(f"{spec!r} is not METHOD host/path")
    method, rest = words
    host, slash, path = rest.strip().partition("/")
    return {
        "method": method.upper(),
        "host": host,
        "path": _normal_path(path) if slash else "/*",
    }


def _normal_path(path: str) -> str:
    """Return an absolute path without escapes, empty segments and dots."""
    # As sandlock does it: byte by byte, and each byte is a character of its own.
    decoded = re.sub(
        r"%(.)(.)", _unescaped, path.encode().decode("latin-1"), flags=re.DOTALL
    )
    kept: list[str] = []
    for segment in decoded.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    normal = "/" + "/".join(kept)
    if path.endswith("*") and not normal.endswith("*"):
        return normal + "*"
    return normal


def _unescaped(escape: "re.Match[str]") -> str:
    digits = "".join(escape.groups())
    if re.fullmatch(r"[0-9A-Fa-f+][0-9A-Fa-f]", digits):
        return chr(int(digits, 16))
    return escape[0]

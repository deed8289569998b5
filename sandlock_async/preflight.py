"""What a preflight says: one thing that was looked at, and all of them. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that a capture needs, or may want to know.

    :ivar name: what was looked at, always the same for the same thing
    :ivar ok: whether it lets a capture be made; true of what is only told
    :ivar reason: what was found
    :ivar help: what helps; empty if nothing has to, or nothing does
    """

    name: str
    ok: bool
    reason: str
    help: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """The outcome of :func:`check`.

    :ivar checks: what was looked at, in that order
    """

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is in the way of a capture."""
        return all(check.ok for check in self.checks)


def mib(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / (1 << 20):.1f} MiB"

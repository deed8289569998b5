"""How a process's memory is to be read: copied under the freeze, or from a fork. Pure."""

from dataclasses import dataclass
from enum import StrEnum

FORK_FROM_BYTES = 8 << 20
"""Up to this size the copy is over as soon as a fork would be."""


class Strategy(StrEnum):
    """What ``strategy=`` takes."""

    AUTO = "auto"
    DIRECT = "direct"
    FORK = "fork"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen, and why: the end of a sentence."""

    strategy: Strategy
    reason: str


def choose(
    wanted: Strategy,
    *,
    expected_bytes: int,
    uncopied_bytes: int,
    room: int,
    headroom: int | None,
    obstacle: str,
) -> Choice:
    """Choose for one process.

    :param expected_bytes: how much memory it has
    :param uncopied_bytes: what a fork does not copy of it
    :param room: memory for what is read under the freeze
    :param headroom: what its memory cgroup has left for copies; None if no limit
    :param obstacle: why no fork can be made; empty if one can
    """
    if wanted is Strategy.DIRECT:
        return Choice(strategy=Strategy.DIRECT, reason="it was asked for")
    if obstacle:
        reason = f"no fork of it can be made: {obstacle}"
        return Choice(strategy=Strategy.DIRECT, reason=reason)
    if uncopied_bytes > room:
        reason = (
            f"a fork would not copy {uncopied_bytes} bytes of it (shared memory, "
            "MADV_DONTFORK, …), more than memory_limit"
        )
        return Choice(strategy=Strategy.DIRECT, reason=reason)
    if wanted is Strategy.FORK:
        return Choice(strategy=Strategy.FORK, reason="it was asked for")
    if expected_bytes <= FORK_FROM_BYTES:
        reason = f"it is small: at most {FORK_FROM_BYTES >> 20} MiB"
        return Choice(strategy=Strategy.DIRECT, reason=reason)
    if headroom is not None and headroom < expected_bytes:
        reason = (
            "its memory cgroup has no room for the pages that it may write to while "
            f"a fork is read ({headroom} bytes left)"
        )
        return Choice(strategy=Strategy.DIRECT, reason=reason)
    reason = f"it is large: more than {FORK_FROM_BYTES >> 20} MiB"
    return Choice(strategy=Strategy.FORK, reason=reason)

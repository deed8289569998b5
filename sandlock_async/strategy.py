"""How a process's memory is to be read: copied under the freeze, or from a fork. Pure."""

from dataclasses import dataclass
from enum import StrEnum

FORK_FROM_BYTES = 8 << 20
"""Up to this size the copy is over as soon as a fork would be."""


_STOP_MS = 0.3
_THREAD_MS = 0.1
_COPY_MS_PER_BYTE = 28 / 100e6
_FORK_MS = 1.7
_FORK_MS_PER_BYTE = 1.6 / 100e6
"""Medians of one machine (docs/benchmarks): stopping a process and reading the small
things of it, each more thread, copying its memory; the same with a fork, which copies
page tables."""


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


def estimate_freeze_ms(
    strategy: Strategy, *, expected_bytes: int, uncopied_bytes: int, threads: int
) -> float:
    """Return about how long one process will stand still, in milliseconds.

    An estimate by what was measured on one machine: half of it, or twice as much, is no
    surprise. What does not fit *memory_limit*, and goes to the disk, is not counted.

    :param expected_bytes: how much memory it has
    :param uncopied_bytes: what a fork does not copy of it
    :param threads: how many it has
    """
    others = _THREAD_MS * max(threads - 1, 0)
    if strategy is Strategy.FORK:
        copied = _FORK_MS_PER_BYTE * (expected_bytes - uncopied_bytes)
        return _FORK_MS + copied + _COPY_MS_PER_BYTE * uncopied_bytes + others
    return _STOP_MS + _COPY_MS_PER_BYTE * expected_bytes + others

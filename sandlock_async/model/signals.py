"""Signals and timers of a whole process."""

from dataclasses import dataclass

from sandlock_async.model.threads import QueuedSignal


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalAction:
    """What a signal does that is not left to its default, ``rt_sigaction(2)``.

    :ivar handler: an address, or 1 (``SIG_IGN``)
    :ivar flags: ``SA_*``
    :ivar restorer: an address; 0 where the machine has none
    :ivar mask: signals blocked while it runs, bit *n* - 1 for signal *n*
    """

    signal: int
    handler: int
    flags: int
    restorer: int
    mask: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalState:
    """Dispositions and pending signals. Sets: bit *n* - 1 for signal *n*.

    :ivar ignored: signals that are ignored
    :ivar caught: signals that have a handler
    :ivar handlers: the actions of both; None if they could not be asked for, the sets
        are known all the same
    :ivar queued: signals sent to the process, not to a thread, that wait
    """

    ignored: int
    caught: int
    handlers: tuple[SignalAction, ...] | None = None
    queued: tuple[QueuedSignal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalTimer:
    """``getitimer(2)``; times in microseconds.

    :ivar which: 0 real, 1 virtual, 2 profiling
    :ivar value: until it expires; 0 if it is not armed
    :ivar interval: to the next time; 0 if it is for once
    """

    which: int
    value: int
    interval: int

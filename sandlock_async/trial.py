"""Tries, and what they say: errors become checks that are not passed."""

from collections.abc import Callable

from sandlock_async.errors import NotPermittedError, SandlockAsyncError
from sandlock_async.failure import cure_of
from sandlock_async.preflight import Check


def tried(
    name: str, attempt: Callable[[], str], *, help: str = "", needed: bool = True
) -> Check:
    """Return what comes of an attempt.

    :param attempt: returns what is to be said of its success
    :param help: what helps if the operating system refuses; not if there is no more
        of something
    :param needed: whether a capture cannot do without
    """
    try:
        return Check(name=name, ok=True, reason=attempt())
    except SandlockAsyncError as error:
        return refused(name, error, needed=needed)
    except OSError as error:
        reason = error.strerror or str(error)
        cure = cure_of(error) or help
        return Check(name=name, ok=not needed, reason=reason, help=cure)


def refused(name: str, error: SandlockAsyncError, *, needed: bool = True) -> Check:
    """Return what an error of ours says."""
    reason = error.reason if isinstance(error, NotPermittedError) else error.message
    return Check(name=name, ok=not needed, reason=reason, help=error.help)

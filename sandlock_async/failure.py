"""What an error of the operating system means for a capture."""

import errno
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

from sandlock_async.denial import explain_denial, is_over
from sandlock_async.errors import (
    CURES,
    CaptureError,
    ProcessGoneError,
    SandlockAsyncError,
    UncapturableError,
    translated_by,
)
from sandlock_async.target import read_stat

_CURES = CURES | {
    errno.EMFILE: "raise the limit of open files (ulimit -n), or close some",
    errno.ENOMEM: "lower memory_limit, or raise the limit of memory (ulimit -v)",
}


def translate(error: OSError, pid: int, phase: str) -> CaptureError:
    """Return the typed error for one of a file below ``/proc/PID``, or of our own."""
    if is_over(error, pid):
        return ProcessGoneError(pid, phase)
    if isinstance(error, PermissionError):
        return explain_denial(pid, pid, read_stat(pid, phase))
    return UncapturableError(
        f"process {pid} could not be captured: {error.strerror or error}",
        pid=pid,
        phase=phase,
        help=cure_of(error),
    )


def cure_of(error: OSError) -> str:
    """Return what helps if the operating system has no more of something, else nothing."""
    return _CURES.get(error.errno or 0, "")


def explained(pid: int, phase: str) -> AbstractContextManager[None]:
    """Turn every :exc:`OSError` inside to a :exc:`CaptureError`."""
    return translated_by(lambda error: translate(error, pid, phase))


@contextmanager
def exhaustion_explained(pid: int) -> Generator[None]:
    """Say it in our own words when we run out of files, memory or threads."""
    try:
        yield
    except SandlockAsyncError:
        raise
    except OSError as error:
        if error.errno not in _CURES:
            raise
        raise translate(error, pid, "prepare") from error

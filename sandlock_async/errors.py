"""Every exception raised on purpose.

Each says what happened and to which pid or path; ``help`` says what to do about
it. Where the standard library has a class that a caller would already catch, the
exception is that as well, with ``errno`` set.

A caller's own mistake (a bad argument) is :exc:`ValueError` or :exc:`TypeError`; that
of a key, which people type, is :exc:`UnusableKeyError`.
"""

import errno
import reprlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

CURES = {
    errno.EMFILE: "close files, or raise the limit (ulimit -n)",
    errno.ENFILE: "close files, or raise the system's limit (sysctl fs.file-max)",
    errno.EAGAIN: "raise the limit of processes and threads (ulimit -u)",
}
"""What helps if there is no more of something, whoever wants it."""


class SandlockAsyncError(Exception):
    """Base of everything that this library raises on purpose.

    :ivar help: what helps, in one sentence
    :cvar usual_help: what it is if nothing better is known
    """

    usual_help: ClassVar[str] = ""

    def __init__(self, message: str, *, help: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.help: str = help or self.usual_help

    def __str__(self) -> str:
        return self.message


class UnusableKeyError(SandlockAsyncError, ValueError):
    """A key for encryption is none, cannot be read, or pyrage is not installed.

    :ivar path: the file of the key; None if it was not given as one
    """

    def __init__(
        self, message: str, *, path: Path | None = None, help: str = ""
    ) -> None:
        super().__init__(message, help=help)
        self.path = path


class CaptureError(SandlockAsyncError):
    """A process could not be captured. It runs on as before.

    :ivar pid: the process
    :ivar phase: where the capture was: ``prepare``, ``attach``, ``freeze``,
        ``snapshot``, ``thaw`` or ``write``
    """

    def __init__(
        self,
        message: str,
        *,
        pid: int,
        phase: str,
        help: str = "",
    ) -> None:
        super().__init__(message, help=help)
        self.pid = pid
        self.phase = phase


class ProcessGoneError(CaptureError, ProcessLookupError):
    """The process does not exist, or ended before its picture was whole."""

    usual_help = "look for the process anew: started again, it has another pid"

    def __init__(self, pid: int, phase: str, detail: str = "") -> None:
        message = f"process {pid} is gone" + (f": {detail}" if detail else "")
        super().__init__(message, pid=pid, phase=phase)
        self.errno: int | None = errno.ESRCH


class NotPermittedError(CaptureError, PermissionError):
    """The kernel does not let us trace the process; the message says why.

    :ivar reason: why
    """

    def __init__(
        self,
        pid: int,
        phase: str,
        reason: str,
        *,
        help: str,
    ) -> None:
        message = f"may not trace process {pid}: {reason}"
        super().__init__(message, pid=pid, phase=phase, help=help)
        self.reason = reason
        self.errno: int | None = errno.EPERM


class FreezeTimeoutError(CaptureError, TimeoutError):
    """The process did not come to a stop, or its copy did not end, in time."""

    usual_help = "try again, with more time (timeout=, --timeout)"

    def __init__(
        self,
        pid: int,
        phase: str,
        detail: str,
        *,
        help: str = "",
    ) -> None:
        super().__init__(detail, pid=pid, phase=phase, help=help)
        self.errno: int | None = errno.ETIMEDOUT


class WaitConflictError(CaptureError):
    """Somebody in this very process would take our stop for the target's exit."""

    usual_help = "capture from another process"


class UnsupportedArchError(CaptureError):
    """The machine, or the target's word size, is not one that can be captured."""


class UncapturableError(CaptureError):
    """The process is in a state of which no picture can be taken."""

    usual_help = "try again; if it is the same then, report it with this message"


class ImageError(SandlockAsyncError):
    """A checkpoint directory is not what it should be.

    :ivar path: the file, or the checkpoint directory
    """

    usual_help = "see whether the disk can be read, and try again"

    def __init__(self, message: str, *, path: Path, help: str = "") -> None:
        super().__init__(message, help=help)
        self.path = path


class CheckpointNotFoundError(ImageError, FileNotFoundError):
    """There is no checkpoint directory at the path."""

    usual_help = "see which ones there are (list_checkpoints, sandlock-async list)"

    def __init__(self, path: Path) -> None:
        super().__init__(f"Checkpoint not found: {path}", path=path)
        self.errno: int | None = errno.ENOENT


class ImageCorruptError(ImageError):
    """A file of the image is missing, malformed, or contradicts another."""

    usual_help = "see what else is damaged (verify), and take another checkpoint, or capture again"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}", path=path)
        self.reason = reason


class ImageVersionError(ImageError):
    """The image has a version that is not known here.

    :ivar found: the version in the image
    :ivar expected: the versions that can be read
    """

    def __init__(self, path: Path, found: object, expected: str) -> None:
        super().__init__(
            f"{path}: unsupported checkpoint image version {reprlib.repr(found)} "
            f"(expected {expected})",
            path=path,
            help="use the version of the software that wrote this checkpoint",
        )
        self.found = found
        self.expected = expected


class StoreError(SandlockAsyncError):
    """A checkpoint directory could not be written; an older one is untouched.

    :ivar path: the destination
    """

    usual_help = "see whether the disk can be written to, or choose another one"

    def __init__(self, message: str, *, path: Path, help: str = "") -> None:
        super().__init__(message, help=help)
        self.path = path


class CheckpointExistsError(StoreError, FileExistsError):
    """Something is at the destination already."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"checkpoint exists already: {path}",
            path=path,
            help="choose another directory, or replace it (replace=True, --replace)",
        )
        self.errno: int | None = errno.EEXIST


class NoSpaceError(StoreError):
    """The file system has no room for the image.

    :ivar needed: bytes the image takes, as far as known; 0 if nothing is
    :ivar free: bytes available when it failed
    :ivar unit: what both are: ``bytes``, or ``inodes`` where files and folders are
        counted
    """

    def __init__(
        self, path: Path, *, needed: int, free: int, unit: str = "bytes"
    ) -> None:
        if needed:
            wanted = f"{needed} {unit} needed, {free} free"
        else:
            wanted = f"{free} free" if unit == "bytes" else f"{free} {unit} free"
        what = "some space" if unit == "bytes" else "files and folders there"
        super().__init__(
            f"no space for {path}: {wanted}",
            path=path,
            help=f"free {what}, or choose another file system",
        )
        self.needed = needed
        self.free = free
        self.unit = unit


class ConversionWarning(UserWarning):
    """A layout cannot say all that a checkpoint holds."""


@contextmanager
def translated_by(
    translate: Callable[[OSError], SandlockAsyncError],
) -> Generator[None]:
    """Raise what *translate* makes of every :exc:`OSError` inside that is not ours."""
    try:
        yield
    except SandlockAsyncError:
        raise
    except OSError as error:
        raise translate(error) from error

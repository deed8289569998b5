"""Files of an image at rest as age files: one for each, ``NAME.age``.

::

    age-encryption.org/v1
    -> X25519 …              for each recipient, the key of the file
    --- …
    nonce (16)│64 KiB + 16│64 KiB + 16│ … the rest + 16

The format is that of age-encryption.org/v1, so ``age -d`` opens them, too. Memory files
are sealed as they are read by a loader, holes as zeros: what is encrypted has no holes.
Needs pyrage, the extra ``crypt``.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from sandlock_async.errors import UnusableKeyError
from sandlock_async.image.holes import PAGE_BYTES, without_zeros
from sandlock_async.image.keys import find_pyrage, identities_of, recipients_of
from sandlock_async.image.sums import CHUNK_BYTES, Sum

SUFFIX = ".age"

MAX_HEADER_BYTES = 64 << 10
"""A file with a longer header is not opened: the time it takes grows with the square."""

_MAGIC = b"age-encryption.org/v1\n"
_LAST_LINE = b"\n--- "
_NONCE_BYTES = 16
_TAG_BYTES = 16
_CHUNK_BYTES = 64 << 10
_LEAST_STANZA_BYTES = 64
_GREASE_BYTES = 1 << 10
"""The header of the same recipients is once longer, once shorter by less than that."""

_NO_KEY = "No matching keys found"


class Locked(Exception):
    """A file cannot be opened with the identities that there are; says why."""


class WrongKey(Locked):
    """None of the identities is that of a recipient."""


class Recipients:
    """Those who can open what is sealed.

    :param given: as :func:`recipients_of` takes them
    :raises UnusableKeyError: if one is none, there are too many or cannot be together,
        or pyrage is not installed
    :raises TypeError: if one is something else
    """

    def __init__(self, given: Iterable[object]) -> None:
        self._pyrage = find_pyrage()
        self._them = recipients_of(given)
        limit = MAX_HEADER_BYTES - _GREASE_BYTES
        header = len(self._them) * _LEAST_STANZA_BYTES
        if header <= limit:
            # The first file of all, which is nobody's: what fails does so now.
            sink = _Count()
            self._seal(io.BytesIO(), sink)
            header = sink.length - _NONCE_BYTES - _TAG_BYTES
        if header > limit:
            raise UnusableKeyError(
                f"{len(self._them)} recipients are too many",
                help="make a key that all of them have",
            )
        self._around_bytes = header + _GREASE_BYTES + _NONCE_BYTES + _TAG_BYTES

    def sealed_bytes(self, size: int, files: int = 1) -> int:
        """Return what so many bytes in so many files take at most."""
        return size + size // _CHUNK_BYTES * _TAG_BYTES + files * self._around_bytes

    def seal_to(self, fd: int, pieces: Iterator[memoryview]) -> int:
        """Write *pieces* as an age file; return its length.

        :raises OSError: as the file system says
        """
        return self._seal(_Pieces(pieces), _Writer(fd))

    def _seal(self, source: "_Source", sink: "_Sink") -> int:
        try:
            return _Pipe(source, sink).run(
                lambda source, sink: self._pyrage.encrypt_io(source, sink, self._them)
            )
        except _Failed as error:
            raise UnusableKeyError(
                f"cannot encrypt for these recipients: {error}",
                help="leave out the one it is about, or keys of other kinds",
            ) from error


class Identities:
    """What opens age files.

    :param given: as :func:`identities_of` takes them
    :raises UnusableKeyError: if one is none, or pyrage is not installed
    :raises TypeError: if one is something else
    """

    def __init__(self, given: Iterable[object]) -> None:
        self._pyrage = find_pyrage()
        self._them = identities_of(given)

    def open_to(self, source: int, destination: int) -> None:
        """Write what an age file holds to another file, zeros as holes.

        :raises WrongKey: if it is for others
        :raises Locked: if it is damaged, or none
        :raises OSError: as the file system says
        """
        size = plain_bytes(source)
        self._open(source, _Writer(destination, holes=True, limit=size), size)
        os.ftruncate(destination, size)

    def sum_of(self, source: int) -> bytes:
        """Return the sum of what an age file holds, which is kept nowhere.

        :raises Locked: as :meth:`open_to`
        :raises OSError: as the file system says
        """
        size = plain_bytes(source)
        sink = _Summed(limit=size)
        self._open(source, sink, size)
        return sink.digest()

    def _open(self, source: int, sink: "_Sink", size: int) -> None:
        with open(source, "rb", closefd=False) as file:
            file.seek(0)
            try:
                length = _Pipe(file, sink).run(
                    lambda source, sink: self._pyrage.decrypt_io(
                        source, sink, self._them
                    )
                )
            except _Failed as error:
                known = WrongKey if str(error) == _NO_KEY else Locked
                raise known(str(error)) from error
        if length != size:
            raise Locked(f"it holds {length} bytes instead of {size}")


def as_recipients(given: Iterable[object] | None) -> Recipients | None:
    """Return those for whom an image is encrypted; None if it is not.

    :param given: None or ``()``, which is what is given by default, for nobody
    :raises UnusableKeyError: as :class:`Recipients`; if it is anything else that is empty
    :raises TypeError: if one is something else
    """
    return None if given is None or given == () else Recipients(given)


def as_identities(given: Iterable[object]) -> Identities | None:
    """Return what opens encrypted images; None if nothing is given. Blocks.

    :raises UnusableKeyError: as :class:`Identities`
    :raises TypeError: if one is something else
    """
    if not isinstance(given, str | bytes | os.PathLike):
        given = tuple(given)
    return None if given == () else Identities(given)


def plain_bytes(fd: int) -> int:
    """Return how many bytes an age file holds, which its length tells.

    :raises Locked: if it is none
    :raises OSError: as the file system says
    """
    head = os.pread(fd, MAX_HEADER_BYTES, 0)
    if not head.startswith(_MAGIC):
        raise Locked("it is no age file")
    end = head.find(b"\n", head.find(_LAST_LINE) + 1) if _LAST_LINE in head else -1
    if end < 0:
        what = "too long" if len(head) == MAX_HEADER_BYTES else "cut short"
        raise Locked(f"its header is {what}")
    payload = os.fstat(fd).st_size - (end + 1) - _NONCE_BYTES
    whole, last = divmod(payload, _CHUNK_BYTES + _TAG_BYTES)
    # There is a last chunk even of nothing, and then it is the only one.
    if whole < 0 or 0 < last < _TAG_BYTES + bool(whole) or not (whole or last):
        raise Locked("it is cut short")
    return whole * _CHUNK_BYTES + max(0, last - _TAG_BYTES)


def pieces_of_bytes(content: bytes) -> Iterator[memoryview]:
    """Yield *content* in pieces, between which other threads may run."""
    view = memoryview(content)
    for start in range(0, len(view), CHUNK_BYTES):
        yield view[start : start + CHUNK_BYTES]


class _Failed(Exception):
    """What pyrage says is wrong."""


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Sink(Protocol):
    @property
    def length(self) -> int: ...

    def write(self, content: bytes, /) -> int: ...


class _Pipe:
    """Has pyrage read from one file and write to another, and keeps their errors."""

    def __init__(self, source: _Source, sink: _Sink) -> None:
        self._source = source
        self._sink = sink
        self._error: BaseException | None = None

    def run(self, call: Callable[[Any, Any], object]) -> int:
        try:
            call(self, self)
        except Exception as error:
            # pyrage makes an error of its own of that of a file.
            if self._error is not None:
                raise self._error from None
            raise _Failed(str(error)) from error
        return self._sink.length

    def read(self, size: int) -> bytes:
        return bytes(self._kept(self._source.read, size))

    def write(self, content: bytes) -> int:
        return int(self._kept(self._sink.write, content))

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def _kept(self, call: Callable[[Any], Any], argument: object) -> Any:  # noqa: ANN401
        try:
            return call(argument)
        except BaseException as error:
            self._error = error
            raise


class _Pieces:
    """Pieces of memory as a file to be read."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        found, self._rest = self._rest[:size], self._rest[size:]
        return bytes(found)


class _Count:
    """Counts what is written.

    :param limit: how much that may be
    :ivar length: how far it has come
    """

    def __init__(self, limit: int | None = None) -> None:
        self.length: int = 0
        self._limit = limit

    def write(self, content: bytes, /) -> int:
        if self._limit is not None and self.length + len(content) > self._limit:
            raise Locked(f"it holds more than {self._limit} bytes")
        self._take(content)
        self.length += len(content)
        return len(content)

    def _take(self, content: bytes) -> None:
        """Do nothing with it."""


class _Writer(_Count):
    """Writes a file from its beginning.

    :param holes: leave pages of zeros out
    """

    def __init__(
        self, fd: int, *, holes: bool = False, limit: int | None = None
    ) -> None:
        super().__init__(limit)
        self._fd = fd
        self._holes = holes

    def _take(self, content: bytes) -> None:
        view = memoryview(content)
        # pyrage hands over whole pages, but for the last.
        whole = self._holes and not self.length % PAGE_BYTES
        for offset, run in (
            without_zeros(self.length, view) if whole else [(self.length, view)]
        ):
            rest, at = run, offset
            while rest:
                count = os.pwrite(self._fd, rest, at)
                at += count
                rest = rest[count:]


class _Summed(_Count):
    """Sums up what is written, chunk by chunk."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._sum = Sum()
        self._chunk = bytearray()

    def digest(self) -> bytes:
        self._add()
        return self._sum.digest(self.length)

    def _take(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            room = CHUNK_BYTES - len(self._chunk)
            self._chunk += rest[:room]
            rest = rest[room:]
            if len(self._chunk) == CHUNK_BYTES:
                self._add(self.length + len(content) - len(rest))

    def _add(self, end: int | None = None) -> None:
        start = (self.length if end is None else end) - len(self._chunk)
        self._sum.add(without_zeros(start, memoryview(self._chunk)))
        self._chunk = bytearray()

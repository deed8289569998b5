"""Files of an image at rest as age files: one for each, ``NAME.age``.

The format is that of age-encryption.org/v1, so ``age -d`` opens them, too. Memory files
are sealed as they are read by a loader, holes as zeros: what is encrypted has no holes.
Needs pyrage, the extra ``crypt``.
"""

import importlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sandlock_async.image.holes import PAGE_BYTES, without_zeros

SUFFIX = ".age"

_CURE = "pip install 'sandlock-async[crypt]'"
_NATIVE = "AGE-SECRET-KEY-"


class Locked(Exception):
    """A file cannot be opened with the identities that there are; says why."""


def _pyrage() -> Any:  # noqa: ANN401 - it has no types
    try:
        return importlib.import_module("pyrage")
    except ImportError as error:
        raise ValueError(f"encryption needs pyrage: {_CURE}") from error


class Recipients:
    """Those who can open what is sealed.

    :param given: each as age prints it (``age1…``), an SSH public key, or one of pyrage
    :raises ValueError: if one is none, or pyrage is not installed
    """

    def __init__(self, given: Sequence[object]) -> None:
        self._pyrage = _pyrage()
        self._them = [_recipient(self._pyrage, one) for one in given]

    def seal(self, content: bytes) -> bytes:
        """Return *content* as an age file."""
        return bytes(self._pyrage.encrypt(content, self._them))

    def seal_to(self, fd: int, pieces: Iterator[memoryview]) -> int:
        """Write *pieces* as an age file; return its length.

        :raises OSError: as the file system says
        """
        return _Pipe(_Pieces(pieces), _Writer(fd)).run(
            lambda source, sink: self._pyrage.encrypt_io(source, sink, self._them)
        )


class Identities:
    """What opens age files.

    :param given: each the path of a key file, its content, or one of pyrage
    :raises ValueError: if one is none, or pyrage is not installed
    :raises OSError: if a key file cannot be read
    """

    def __init__(self, given: Sequence[object]) -> None:
        self._pyrage = _pyrage()
        self._them = [one for it in given for one in _identities(self._pyrage, it)]

    def open_to(self, source: int, destination: int) -> None:
        """Write what an age file holds to another file, zeros as holes.

        :raises Locked: if it is for others, damaged, or none
        :raises OSError: as the file system says
        """
        sink = _Writer(destination, holes=True)
        with open(source, "rb", closefd=False) as file:
            try:
                _Pipe(file, sink).run(
                    lambda source, sink: self._pyrage.decrypt_io(
                        source, sink, self._them
                    )
                )
            except _Failed as error:
                raise Locked(str(error)) from error
        os.ftruncate(destination, sink.length)


def as_identities(given: Sequence[object]) -> Identities | None:
    """Return what opens encrypted images; None if nothing is given. Blocks.

    :raises ValueError: as :class:`Identities`
    :raises OSError: if a key file cannot be read
    """
    return Identities(given) if given else None


class _Failed(Exception):
    """What pyrage says is wrong."""


class _Pipe:
    """Has pyrage read from one file and write to another, and keeps their errors."""

    def __init__(self, source: Any, sink: "_Writer") -> None:  # noqa: ANN401
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


class _Pieces(io.RawIOBase):
    """Pieces of memory as a file to be read."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        found, self._rest = self._rest[:size], self._rest[size:]
        return bytes(found)


class _Writer:
    """Writes a file from its beginning.

    :param holes: leave pages of zeros out
    :ivar length: how far it has come
    """

    def __init__(self, fd: int, *, holes: bool = False) -> None:
        self.length: int = 0
        self._fd = fd
        self._holes = holes

    def write(self, content: bytes) -> int:
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
        self.length += len(content)
        return len(content)


def _recipient(pyrage: Any, given: object) -> object:  # noqa: ANN401
    if not isinstance(given, str):
        if type(given).__module__.partition(".")[0] in ("pyrage", "builtins") and (
            type(given).__name__ == "Recipient"
        ):
            return given
        raise TypeError(f"a recipient is a string like age1…, not {given!r}")
    kind = pyrage.ssh if given.startswith("ssh-") else pyrage.x25519
    try:
        return kind.Recipient.from_str(given.strip())
    except pyrage.RecipientError as error:
        raise ValueError(f"{given!r} is no recipient: {error}") from error


def _identities(pyrage: Any, given: object) -> Iterable[object]:  # noqa: ANN401
    if isinstance(given, Path):
        given = given.read_text()
    if isinstance(given, bytes):
        given = given.decode(errors="replace")
    if not isinstance(given, str):
        if type(given).__name__ == "Identity":
            return [given]
        raise TypeError(
            f"an identity is a path, or the content of a key file, not {given!r}"
        )
    lines = [line.strip() for line in given.splitlines()]
    keys = [line for line in lines if line.startswith(_NATIVE)]
    try:
        if keys:
            return [pyrage.x25519.Identity.from_str(key) for key in keys]
        return [pyrage.ssh.Identity.from_buffer(given.encode())]
    except pyrage.IdentityError as error:
        # Not the key itself: messages end up in logs.
        raise ValueError(f"an identity is no key: {error}") from error

"""The bytes of one memory file, read when they are asked for."""

import errno
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from sandlock_async.errors import ImageCorruptError
from sandlock_async.image.unreadable import image_error
from sandlock_async.model import SegmentData

if TYPE_CHECKING:  # which makes these
    from sandlock_async.image.directory import ImageDirectory


class FileSegment(SegmentData):
    """A segment in a memory file: nothing is open or read before it is asked for."""

    __slots__ = ("_directory", "_name", "_size")

    def __init__(self, directory: "ImageDirectory", name: str, size: int) -> None:
        self._directory = directory
        self._name = name
        self._size = size

    @property
    def _path(self) -> Path:
        return self._directory.path / self._name

    @property
    def name(self) -> str:
        """The name of its file in the image."""
        return self._name

    @property
    def is_encrypted(self) -> bool:
        """Whether its file is; what it holds can then not be shared."""
        return self._directory.is_encrypted

    def __len__(self) -> int:
        return self._size

    def opened(self) -> AbstractContextManager[int]:
        """Lend an open descriptor of the file."""
        return self._directory.lent_fd(self._name)

    def corrupt(self, reason: str) -> ImageCorruptError:
        """Return the error for its file."""
        return self._directory.corrupt(self._name, reason)

    def check_length(self, fd: int) -> None:
        """Return if the open file is as long as it was: no cut may pass for a hole.

        :raises ImageCorruptError: if not
        """
        size = os.fstat(fd).st_size
        if size != self._size:
            raise self.corrupt(f"{size} bytes instead of {self._size}, changed since")

    def known_sum(self) -> bytes | None:
        """Return what the image's manifest says the file sums up to, if it does.

        :raises ImageCorruptError: if the manifest is damaged
        """
        entry = (self._directory.manifest() or {}).get(self._name)
        return None if entry is None else entry.blake3

    def ranges(self) -> Sequence[tuple[int, int]]:
        with self.opened() as fd:
            self.check_length(fd)
            try:
                return self._find_data(fd)
            except OSError as error:
                raise image_error(error, self._path) from error

    def _find_data(self, fd: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        position = 0
        while position < self._size:
            try:
                start = os.lseek(fd, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # a hole up to the end, lseek(2)
                    raise
                break
            position = min(os.lseek(fd, start, os.SEEK_HOLE), self._size)
            found.append((start, position))
        return found

    def readinto(self, offset: int, buffer: memoryview) -> None:
        with self.opened() as fd:
            while buffer:
                try:
                    count = os.preadv(fd, [buffer], offset)
                except OSError as error:
                    raise image_error(error, self._path) from error
                if not count:
                    raise self._directory.corrupt(self._name, f"ends at byte {offset}")
                offset += count
                buffer = buffer[count:]

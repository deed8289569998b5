"""Where pending memory goes that nobody streams to a checkpoint: a nameless file."""

import os
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sandlock_async.errors import StoreError
from sandlock_async.snapshot.direct import Run
from sandlock_async.snapshot.pieces import FileBacking, Piece


class SpillFile:
    """A temporary file without a name, in ``TMPDIR``; gone when it is closed.

    :ivar pieces: what it holds, by segment number
    """

    def __init__(self) -> None:
        with self._explained():
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._backing = FileBacking(self._file.fileno())
        self._lock = threading.Lock()
        self._end = 0
        self.pieces: dict[int, list[Piece]] = {}

    def write(self, index: int, runs: list[Run]) -> None:
        """Keep *runs* of segment number *index*. Blocks; any thread."""
        for start, run in runs:
            with self._lock:
                offset, self._end = self._end, self._end + len(run)
                piece = Piece(start, start + len(run), self._backing, offset)
                self.pieces.setdefault(index, []).append(piece)
            view = run
            with self._explained():
                while view:
                    count = os.pwrite(self._file.fileno(), view, offset)
                    offset += count
                    view = view[count:]

    @staticmethod
    @contextmanager
    def _explained() -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"what exceeds the memory budget could not be put in a temporary file: "
                f"{error.strerror or error}",
                path=Path(os.environ.get("TMPDIR", "/tmp")),
                help="free some space there, or set TMPDIR to another directory; "
                "capture_to() needs none",
            ) from error

    def close(self) -> None:
        """Let the file go; closing twice does nothing."""
        self._file.close()

"""What a checkpoint in memory holds, and gives back when it is closed."""

from sandlock_async.snapshot.pieces import Piece
from sandlock_async.snapshot.source import Source
from sandlock_async.snapshot.spill import SpillFile


class Kept:
    """The copy of a process, and the file of what did not fit.

    :ivar source: None until there is a copy
    :ivar spilled: None unless something did not fit
    """

    def __init__(self) -> None:
        self.source: Source | None = None
        self.spilled: SpillFile | None = None

    @property
    def spilled_pieces(self) -> dict[int, list[Piece]] | None:
        """Where the bytes are that did not fit, by segment number."""
        return None if self.spilled is None else self.spilled.pieces

    def release(self) -> None:
        """Give everything back; doing so twice does nothing."""
        if self.source is not None:
            self.source.close()
        if self.spilled is not None:
            self.spilled.close()

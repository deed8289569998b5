"""The progress bar of a capture that takes long.

Drawn by a thread of its own: the event loop only leaves word of how far it is,
and never waits for a terminal.
"""

import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from sandlock_async.events import Committed, Event, Frozen, Thawed
from sandlock_async.events import Progress as Written

_DELAY_S = 0.5
_REFRESH_S = 0.1


class Bar:
    """Shows how far a capture is, from half a second after its start on.

    Use it as ``with``, and give :meth:`tell` to the capture as ``on_event``. When
    the ``with`` is left the bar is gone.
    """

    def __init__(self, console: Console, *, delay: float = _DELAY_S) -> None:
        self._console = console
        self._delay = delay
        self._phase = "preparing"
        self._done = 0
        self._total: int | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._draw, name="sandlock-async-bar", daemon=True
        )

    def tell(self, event: Event) -> None:
        """Take note of an event; draws nothing itself."""
        match event:
            case Frozen():
                self._phase = "frozen, writing"
            case Thawed():
                self._phase = "writing"
            case Written():
                self._done, self._total = event.done_bytes, event.total_bytes
            case Committed():
                self._phase = "done"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _draw(self) -> None:
        if self._over.wait(self._delay):
            return
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        try:
            with progress:
                task = progress.add_task(self._phase, total=None)
                while not self._over.wait(_REFRESH_S):
                    progress.update(
                        task,
                        description=self._phase,
                        completed=self._done,
                        total=self._total,
                        refresh=True,
                    )
        except OSError:
            pass  # the terminal is gone: the capture is not

"""The dedicated thread of one capture.

The kernel takes ptrace requests only from the thread that attached, and lets
every tracee go when that thread ends (``ptrace(2)``). So a capture has a thread
of its own, alive as long as anything is traced, and its end is the last safety.
"""

import concurrent.futures
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from sandlock_async.threads import start_thread

P = ParamSpec("P")
T = TypeVar("T")

_END_S = 1.0
"""Longer than any thread takes: a /proc of another namespace lists others."""

_Job = tuple["concurrent.futures.Future[Any]", Callable[[], Any]]


class TracerThread(concurrent.futures.Executor):
    """An executor of exactly one thread.

    A daemon: a thread stuck in the kernel must not keep the interpreter from
    ending. Jobs run in the order in which they were given.
    """

    def __init__(self, pid: int) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(
            target=self._run, name=f"sandlock-async-tracer-{pid}", daemon=True
        )
        start_thread(self._thread)

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """Run a call on the thread."""
        if self._closed:
            raise RuntimeError("the tracer thread has ended")
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._jobs.put((future, lambda: fn(*args, **kwargs)))
        return future

    def shutdown(
        self,
        wait: bool = True,  # noqa: FBT001, FBT002 - as Executor has it
        *,
        cancel_futures: bool = False,
    ) -> None:
        """End the thread after the jobs it has; what it still traces runs again.

        :param wait: return only when the kernel has seen it end
        """
        self._closed = True
        self._jobs.put(None)
        if wait:
            self._thread.join()
            # join() returns a little before the kernel detaches the tracees:
            # exit_mm() wakes it, exit_notify() comes later.
            task = f"/proc/self/task/{self._thread.native_id}"
            patience = time.monotonic() + _END_S
            while os.path.exists(task) and time.monotonic() < patience:
                time.sleep(0.0001)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - it is the waiter's
                future.set_exception(error)
            # Hold neither result nor traceback while waiting for the next job.
            del job, future, call

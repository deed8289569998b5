"""Starting threads, or saying that there can be no more."""

import errno
import threading

OUR_THREADS = "sandlock-async-"
"""What the names of all of them begin with."""


def start_thread(thread: threading.Thread) -> None:
    """Start a thread.

    :raises OSError: ``EAGAIN`` if there may be no more of them (RLIMIT_NPROC)
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise no_thread_error() from error


def no_thread_error() -> OSError:
    """Return what the kernel said, of which Python makes a RuntimeError."""
    return OSError(errno.EAGAIN, "cannot start a thread")

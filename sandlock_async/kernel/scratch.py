"""A buffer for each thread: to make one takes longer than to fill it."""

import ctypes
import threading

SCRATCH_BYTES = 1 << 16
"""With AMX an xstate takes 11 KiB; sandlock asks for 64."""


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.buffer: ctypes.Array[ctypes.c_char] = ctypes.create_string_buffer(
            SCRATCH_BYTES
        )
        self.address: int = ctypes.addressof(self.buffer)


SCRATCH = _Scratch()
"""Used within one call; what is in it afterwards is nobody's."""

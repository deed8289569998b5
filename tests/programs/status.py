"""What a tracee tells its test: u64 slots of a shared file."""

import mmap
import struct

READY, PROGRESS, ERRORS, FIRST, SECOND = range(5)


class Status:
    """The slots, read and written by index."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 4096)

    def __getitem__(self, slot: int) -> int:
        return int(struct.unpack_from("<Q", self._map, 8 * slot)[0])

    def __setitem__(self, slot: int, value: int) -> None:
        struct.pack_into("<Q", self._map, 8 * slot, value)

    def close(self) -> None:
        self._map.close()

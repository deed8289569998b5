"""One mapping of ``argv[2]`` bytes, every ``argv[3]``-th page of it written to."""

import mmap
import sys
import time

from status import FIRST, PROGRESS, READY, Status

status = Status(sys.argv[1])
size, every = int(sys.argv[2]), int(sys.argv[3])
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, size // 4096, every):
    memory[page * 4096 : page * 4096 + 8] = page.to_bytes(8, "little")
status[FIRST] = len(range(0, size // 4096, every))
status[READY] = 1
while True:
    status[PROGRESS] += 1
    time.sleep(0.001)

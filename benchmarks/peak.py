"""How much memory a capture takes: ``python -m benchmarks.peak PID DIR STRATEGY``.

Prints the bytes that the peak of this process has grown by since it was ready.
"""

import asyncio
import re
import sys
from pathlib import Path

import sandlock_async as sa


def peak_bytes() -> int:
    """Return the most memory that this process has had so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


async def main() -> None:
    pid, path, strategy = sys.argv[1:]
    ready = peak_bytes()
    await sa.capture_to(int(pid), path, strategy=strategy, durable=False, timeout=120)
    print(peak_bytes() - ready)


if __name__ == "__main__":
    asyncio.run(main())

"""Pages that a process shares with its child since a fork(2) stay shared."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandlock_async as sa

pytestmark = pytest.mark.usefixtures("nothing_left")

SIZE = 24 << 20
PROGRAM = f"""
import mmap, os, signal
memory = mmap.mmap(-1, {SIZE}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, {SIZE}, 4096):
    memory[at] = 1
pid = os.fork()
if pid == 0:
    signal.pause()
print(pid, flush=True)
signal.pause()
"""


@pytest.fixture
def family() -> Iterator[tuple[int, int]]:
    """A process and its child, which share their memory."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE
    ) as it:
        assert it.stdout is not None
        child = int(it.stdout.readline())
        yield it.pid, child
        subprocess.run(["kill", "-9", str(child)], check=True)
        it.kill()


def shared_bytes(pid: int) -> int:
    content = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(content.partition("Shared_Dirty:")[2].split()[0]) << 10


@pytest.mark.parametrize("strategy", ["direct", "fork"])
async def test_they_stay_shared(
    strategy: str, family: tuple[int, int], tmp_path: Path
) -> None:
    for pid in family:
        before = shared_bytes(pid)
        assert before > SIZE
        report = await sa.capture_to(
            pid, tmp_path / str(pid), strategy=strategy, durable=False
        )
        assert report.strategy == strategy
        assert report.captured_bytes > SIZE
        assert before - shared_bytes(pid) < 1 << 20
        async with await sa.Checkpoint.load(tmp_path / str(pid)) as checkpoint:
            state = checkpoint.process_state
            largest = max(state.memory_data, key=lambda it: len(it.data))
            assert largest.data[-4096:] == b"\1".ljust(4096, b"\0")


async def test_reading_a_copy_takes_no_memory_of_it(
    family: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandlock_async.injection.snapshots import Snapshot

    seen: list[int] = []
    end = Snapshot.end

    def measured(self: Snapshot, syscall: int) -> None:
        seen.append(shared_bytes(self.pid))
        end(self, syscall)

    monkeypatch.setattr(Snapshot, "end", measured)
    await sa.capture_to(family[0], tmp_path / "it", strategy="fork", durable=False)

    assert len(seen) == 1
    assert seen[0] > SIZE

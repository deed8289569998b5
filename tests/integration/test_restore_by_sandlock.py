"""sandlock 0.9.0 brings back what we have captured, and it goes on."""

import json
import os
import platform
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import sandlock_async as sa
from sandlock_async.procfs.maps import parse_maps
from tests.conftest import Tracee, until
from tests.integration.wheels import READABLE, Wheel, syscall

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the programs are of x86-64"
)

ENDED, DIED = [0, -1], [-1, signal.SIGSEGV]
WRONG = 4
"""Exit status of a program that finds a value of its own changed."""
NAP_US = 2000
STATIC, DYNAMIC = ("-static", "-no-pie"), ()
AVX = "avx" in Path("/proc/cpuinfo").read_text().partition("flags")[2].split()
ORIG_RAX = 15
"""Of the words of NT_PRSTATUS: the system call, as long as it can be restarted."""
AVX_OFFSET = 576
"""Of the upper halves in the standard form of XSAVE."""


@pytest.fixture
def sandlock(wheel: Callable[[str], Wheel]) -> Wheel:
    return wheel("v3")


@contextmanager
def running(*command: object) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [*map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def waits_in(pid: int, name: str) -> bool:
    call = Path(f"/proc/{pid}/syscall").read_text().split()
    return call[0] == syscall(name)


def options(folder: Path, *readable: Path) -> dict[str, object]:
    """A sandbox that lets its program go on where *folder* is its own."""
    return {"fs_readable": [*READABLE, folder, *readable], "fs_writable": [folder]}


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.fixture
def counter(compiled: Callable[..., Path], tmp_path: Path) -> "Counter":
    return Counter(compiled, tmp_path)


class Counter:
    """The program that counts, and what it has written."""

    def __init__(self, compiled: Callable[..., Path], folder: Path) -> None:
        self._compiled = compiled
        self.store = folder / "store"
        self.web = self.store / "web"
        self.folder = folder / "folder"
        self.folder.mkdir()
        self.log = self.folder / "log"

    def command(self, *flags: str) -> list[object]:
        return [self._compiled("counter", *flags), self.log, NAP_US]

    def lines(self) -> list[int]:
        whole, _, _ = self.log.read_text().rpartition("\n")
        return [int(line) for line in whole.split()]

    async def capture(self, process: object, *, layout: str = "v3") -> None:
        """Capture it in its nap, where its registers are full of its values."""
        until(lambda: self.log.exists() and len(self.lines()) > 10, "it to count")
        for _ in range(100):
            await sa.capture_to(process, self.web, format=layout, replace=True)
            async with await sa.Checkpoint.load(self.web) as checkpoint:
                if checkpoint.process_state.regs[ORIG_RAX] == int(syscall("nanosleep")):
                    return
        pytest.fail("never in its nap")

    async def forget_what_followed(self) -> None:
        """Put the file back to what it was when the program was captured."""
        async with await sa.Checkpoint.load(self.web) as checkpoint:
            (file,) = [fd for fd in checkpoint.fd_table if fd.path == str(self.log)]
        os.truncate(self.log, file.offset)

    def restored(self, *flags: str) -> dict[str, object]:
        """What a job of the release needs in order to restore it."""
        program = self._compiled("counter", *flags)
        box = options(self.folder, program.parent)
        return {"store": self.store, "name": "web", "options": box}


LINKED = pytest.mark.parametrize("flags", [STATIC, DYNAMIC], ids=["static", "dynamic"])


@LINKED
@pytest.mark.parametrize("how", ["free", "sandboxed", "v1"])
async def test_a_program_goes_on(
    flags: tuple[str, ...], how: str, counter: Counter, sandlock: Wheel
) -> None:
    # GIVEN a program, captured with its vector registers in use, and killed
    command = counter.command(*flags)
    if how == "sandboxed":
        first = {**counter.restored(*flags), "argv": command, "name": "theirs"}
        first["syscall"] = syscall("nanosleep")
        with sandlock.keeping("capture_and_keep", **first) as pid:
            await counter.capture(pid)
    else:
        with running(*command) as process:
            await counter.capture(process, layout="v1" if how == "v1" else "v3")
    if how == "v1":
        captured = counter.web.rename(counter.store / "captured")
        await sa.convert(captured, counter.web, format="v3")
    await counter.forget_what_followed()
    before = counter.lines()
    async with await sa.Checkpoint.load(counter.web) as checkpoint:
        (thread,) = checkpoint.process_state.threads
    for number in range(16 if AVX else 0):
        upper = b"upper half of %X!" % number
        assert thread.xstate[AVX_OFFSET + 16 * number :].startswith(upper)

    # WHEN it is restored
    with sandlock.keeping("restore_and_keep", **counter.restored(*flags)) as answer:
        pid, skipped = answer

        def has_gone_on() -> bool:
            assert is_alive(pid), f"died after {counter.lines()[len(before) :]}"
            return len(counter.lines()) > len(before) + 100

        until(has_gone_on, "the program to count on")

    # THEN it has gone on where it was: not a number is missing, and no value wrong
    assert counter.lines() == [*range(1, len(counter.lines()) + 1)]
    assert [fd for fd, _ in skipped] == [0, 1, 2]


@pytest.mark.parametrize(
    ("without", "how"),
    [
        pytest.param("upper halves of vector registers", [WRONG, -1], id="vectors"),
        pytest.param("changed pages of read-only mappings", DIED, id="read-only"),
    ],
)
async def test_what_a_restore_needs(
    without: str, how: list[int], counter: Counter, sandlock: Wheel
) -> None:
    """The program notices what is missing, and all we add is needed."""
    if not AVX:
        pytest.skip("needs a processor with AVX")
    with running(*counter.command(*DYNAMIC)) as process:
        await counter.capture(process)
    inside = counter.web / "process"
    if without == "upper halves of vector registers":
        registers = inside / "threads" / "fpregs.bin"
        os.truncate(registers, 512)
    else:
        for this in json.loads((inside / "memory_map.json").read_bytes()):
            if this["perms"] == "r--p":
                data = inside / "memory" / f"{this['start']:x}.bin"
                data.unlink(missing_ok=True)

    assert sandlock.do("restore", **counter.restored(*DYNAMIC)) == how


async def test_a_sleep_ends(sandlock: Wheel, tmp_path: Path) -> None:
    with running("/bin/sleep", 2) as process:
        until(lambda: waits_in(process.pid, "clock_nanosleep"), "sleep to sleep")
        await sa.capture_to(process, tmp_path / "web", format="v3")

    how = sandlock.do("restore", store=tmp_path, name="web", options=options(tmp_path))

    assert how == ENDED


async def test_memory_of_every_kind_is_back(
    sandlock: Wheel, spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    folder, store = tmp_path / "mapped", tmp_path / "store"
    folder.mkdir()
    tracee = spawn("mappings", folder, "plain.dat")
    await sa.capture_to(tracee, store / "web", format="v3")
    box = options(tmp_path, Path(os.readlink(f"/proc/{tracee.pid}/exe")).parent)
    tracee.process.kill()

    restoring = {"store": store, "name": "web", "options": box}
    with sandlock.keeping("restore_and_keep", **restoring) as (pid, _):
        until(lambda: waits_in(pid, "pause"), "the program to wait")
        found = [
            this.map for this in parse_maps(Path(f"/proc/{pid}/maps").read_bytes())
        ]
        async with await sa.Checkpoint.load(store / "web") as checkpoint:
            state = checkpoint.process_state
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                for segment in state.memory_data:
                    memory.seek(segment.start)
                    assert segment.data == memory.read(len(segment.data)), segment
            # Neighbours may have become one mapping, and nothing is shared any more.
            # What the program may not read has no data here, and is not mapped.
            for wanted in state.memory_maps:
                rights = {
                    this.perms[:3]
                    for this in found
                    if this.start < wanted.end and wanted.start < this.end
                }
                if not wanted.is_special:
                    assert rights == ({wanted.perms[:3]} if wanted.readable else set())


def test_a_sleep_captured_by_sandlock_dies(sandlock: Wheel, tmp_path: Path) -> None:
    """Why a checkpoint of ours holds more than sandlock puts into its own."""
    box = options(tmp_path)
    sandlock.do(
        "capture",
        store=tmp_path,
        cases={"web": box},
        argv=["/bin/sleep", "2"],
        syscall=syscall("clock_nanosleep"),
    )

    assert sandlock.do("restore", store=tmp_path, name="web", options=box) == DIED


@LINKED
def test_a_program_captured_by_sandlock(
    flags: tuple[str, ...], counter: Counter, sandlock: Wheel
) -> None:
    """Its own checkpoint suffices for a static program only."""
    restored = counter.restored(*flags)
    sandlock.do(
        "capture",
        store=counter.store,
        cases={"web": restored["options"]},
        argv=counter.command(*flags),
        syscall=syscall("nanosleep"),
    )

    if flags == DYNAMIC:
        assert sandlock.do("restore", **restored) == DIED
    else:
        before = len(counter.lines())
        with sandlock.keeping("restore_and_keep", **restored):
            until(lambda: len(counter.lines()) > before + 10, "it to count on")

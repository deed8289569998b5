"""Tracees, and the proof that a capture left nothing behind."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from tests.programs.status import ERRORS, PROGRESS, READY, Status

PROGRAMS = Path(__file__).parent / "programs"
IN_CI = os.environ.get("CI") == "true"


def until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Return when *condition* holds; fail after a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.001)


def missing(what: str) -> None:
    """Skip for want of *what*; in CI everything is there, so fail."""
    if IN_CI:
        pytest.fail(f"{what} is missing in CI")
    pytest.skip(f"needs {what}")


@pytest.fixture(autouse=True)
def unblocked_loop() -> Iterator[None]:
    """Fail a test in which our code blocks the event loop."""
    with blockbuster_ctx(scanned_modules=["sandlock_async"]):
        yield


class Tracee:
    """A running program, and what it says of itself.

    :ivar name: an argument that no other process has but its children
    """

    def __init__(
        self, process: "subprocess.Popen[bytes]", status: Status, path: Path = Path()
    ) -> None:
        self.process = process
        self.name = os.fsencode(path)
        self.pid = process.pid
        self.status = status

    @property
    def state(self) -> str:
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0]

    def threads(self) -> list[Path]:
        return list(Path(f"/proc/{self.pid}/task").iterdir())

    def copies(self) -> list[int]:
        """Return the children that a capture has made."""
        content = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [
            int(child)
            for child in content.split()
            if "(sandlock-async)" in Path(f"/proc/{child}/stat").read_text()
        ]

    def tracers(self) -> set[str]:
        found = set()
        for task in self.threads():
            try:
                status = (task / "status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found.add(status.partition("TracerPid:")[2].split()[0])
        return found

    def end(self) -> None:
        """Kill it, and let go of what is held for it."""
        self.process.kill()
        self.process.wait()
        self.status.close()

    def check_runs_on(self) -> None:
        """Assert that it goes on, untraced, and has found nothing wrong."""
        before = self.status[PROGRESS]
        until(lambda: self.status[PROGRESS] > before, "progress of the tracee")
        until(lambda: self.tracers() <= {"0"}, "tracee without a tracer")
        assert self.process.poll() is None
        assert self.status[ERRORS] == 0


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compile a C program of tests/programs, once for each set of flags."""
    folder = tmp_path_factory.mktemp("programs")

    def build(name: str, *flags: str) -> Path:
        if shutil.which("gcc") is None:
            missing("gcc")
        program = folder / "".join((name, *flags))
        if not program.exists():
            source = PROGRAMS / f"{name}.c"
            command = [
                "gcc",
                "-O1",
                "-Wall",
                "-Wno-return-type",
                "-pthread",
                *flags,
                "-o",
                program,
                source,
            ]
            subprocess.run(command, check=True)
        return program

    return build


@pytest.fixture
def spawn(
    tmp_path: Path, compiled: Callable[..., Path]
) -> Iterator[Callable[..., Tracee]]:
    """Start a program of tests/programs and wait until it says that it is ready."""
    tracees: list[Tracee] = []
    numbers = count()

    def start(name: str, *arguments: object) -> Tracee:
        path = tmp_path / f"status-{next(numbers)}"
        path.write_bytes(bytes(4096))
        status = Status(str(path))
        if name.endswith(".py"):
            command = [sys.executable, str(PROGRAMS / name), str(path)]
        else:
            command = [str(compiled(name)), str(path)]
        process = subprocess.Popen([*command, *map(str, arguments)])
        tracee = Tracee(process, status, path)
        tracees[:] = [it for it in tracees if it.process.returncode is None]
        tracees.append(tracee)
        until(
            lambda: status[READY] or process.poll() is not None, f"{name} to be ready"
        )
        assert process.poll() is None, f"{name} ended with {process.returncode}"
        return tracee

    yield start
    for tracee in tracees:
        tracee.process.kill()
        tracee.process.wait()


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """Start programs that stay on one CPU: its number is in their memory (rseq)."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that sleeps, really asleep."""
    with on_one_cpu():
        process = subprocess.Popen(["sleep", "60"])
    until(
        lambda: "nanosleep" in _wchan(process.pid) or _state(process.pid) == "S",
        "sleep to sleep",
    )
    yield process
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


@pytest.fixture
def family() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has a child."""
    command = ["sh", "-c", "sleep 60 & echo; wait"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        assert parent.stdout
        parent.stdout.readline()
        yield parent
        os.killpg(parent.pid, signal.SIGKILL)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _wchan(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Assert that no thread and no descriptor of ours outlives the test."""
    fds = open_files()
    threads = {thread.name for thread in threading.enumerate()}
    yield
    until(
        lambda: {thread.name for thread in threading.enumerate()} <= threads,
        "no thread left",
    )
    gc.collect()  # a cancelled task's traceback may still hold one in a cycle
    left = open_files() - fds
    assert not left, f"left open: {left}"


def open_files() -> "Counter[str]":
    """Count what is open here, the tracees' status files aside."""
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # that of the listing itself
        if "/status-" not in link:
            found[link.partition("[")[0] if "[" in link else link] += 1
    return found

"""What must hold of an image that somebody has tampered with, whatever he did.

Run for itself (``python -m tests.hostility SOURCES FOLDER FIRST LAST``) it tries some,
one after the other, and prints a line of JSON for each: time and memory are those of
a process that does nothing else.
"""

import asyncio
import ctypes
import dataclasses
import faulthandler
import io
import json
import os
import random
import resource
import shutil
import signal
import stat
import struct
import sys
import threading
import time
import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import orjson
from rich.console import Console

import sandlock_async as sa
from sandlock_async.cli import output
from sandlock_async.cli.inspect import _inspect
from sandlock_async.cli.list import _list
from sandlock_async.cli.verify import answer as verified
from sandlock_async.image import layout
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.model import SegmentData
from tests.mutations import Victim, remove, tamper, walk

MAX_CPU_S = 1.0
MAX_MEMORY = 100 << 20
HANGS_AFTER_S = 100
"""Real time, for one operation: the machine may be busy with something else."""

_PIECE = 1 << 20
_WHOLE = 16 << 20
_LONG = 20_000


async def load(path: Path, *, verify: bool) -> None:
    """Load an image, and look at all that is in it."""
    async with await sa.Checkpoint.load(path, verify=verify) as checkpoint:
        state = checkpoint.process_state
        _look_at(checkpoint)
        for segment in state.all_segments():
            _read(segment.data)
        assert all(low.end <= high.start for low, high in pairwise(state.memory_maps))
        assert all(this.size > 0 for this in state.memory_maps)
        try:
            sa.decode_policy(checkpoint.format, checkpoint.policy)
        except ValueError:
            pass  # it is bytes to everybody else


def _look_at(value: object) -> None:
    if isinstance(value, SegmentData):
        assert len(value) >= 0
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _look_at(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in value:
            _look_at(item)


def _read(data: SegmentData) -> None:
    if len(data) <= _WHOLE:
        assert len(bytes(data)) == len(data)
        return
    assert len(data[:4096]) == 4096 and data[-1] == data[len(data) - 1]
    for start, stop in data.ranges():
        for low in range(start, stop, _PIECE):
            assert data[low : min(low + _PIECE, stop)]


async def inspect(path: Path) -> None:
    """Inspect an image; what is printed must be JSON, and harmless to a terminal."""
    answer = await _inspect(path, ())
    _show(answer)


async def list_it(path: Path) -> None:
    """List the folder that the image is in."""
    _show(await _list(path.parent))


def _show(answer: output.Answer) -> None:
    content = orjson.dumps(output._encodable(answer.content))
    if len(content) > _LONG or zlib.crc32(content) % 4:
        return  # that takes longer than all else
    shown = io.StringIO()
    console = Console(file=shown, width=1000, markup=False, highlight=False)
    console.print(answer.text())
    text = shown.getvalue()
    assert all(it.isprintable() or it == "\n" for it in text), "control characters"


async def verify(path: Path) -> bool:
    """Verify an image; return whether it is whole."""
    found = await sa.verify(path)
    _show(verified(found))
    return found.ok


async def convert(format: str, path: Path) -> None:
    """Convert an image; what comes out must be one, and what fails leave nothing."""
    destination = path.parent / "converted"
    try:
        await sa.convert(path, destination, format=format, durable=False)
    except sa.SandlockAsyncError:
        assert not os.path.lexists(destination), "something is left of it"
        raise
    async with await sa.Checkpoint.load(destination) as checkpoint:
        assert checkpoint.format == format
    for folder, folders, names in os.walk(destination):
        for name in (*folders, *names):
            mode = stat.S_IMODE(os.lstat(os.path.join(folder, name)).st_mode)
            assert mode == (0o700 if name in folders else 0o600), (name, oct(mode))
    shutil.rmtree(destination)


OPERATIONS: dict[str, Callable[[Path], Awaitable[object]]] = {
    "load": lambda path: load(path, verify=False),
    "load verified": lambda path: load(path, verify=True),
    "inspect": inspect,
    "verify": verify,
    "list": list_it,
    "convert to v1": partial(convert, "v1"),
    "convert to v2": partial(convert, "v2"),
    "convert to v3": partial(convert, "v3"),
}


class Watch:
    """Tells whether anybody has so much as opened one of some files."""

    _LIBC = ctypes.CDLL(None, use_errno=True)
    _ALL = 0xFFF  # IN_ALL_EVENTS
    _DONT_FOLLOW = 0x02000000
    _HEAD = struct.Struct("iIII")

    def __init__(self) -> None:
        self.fd: int = self._LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._names: dict[int, Path] = {}

    def add(self, path: Path) -> None:
        """Watch a file, no matter what kind."""
        flags = self._ALL | self._DONT_FOLLOW
        number = self._LIBC.inotify_add_watch(self.fd, os.fsencode(path), flags)
        if number >= 0:
            self._names[number] = path

    def seen(self) -> list[str]:
        """Return what has happened since it was last asked."""
        try:
            events = os.read(self.fd, 1 << 20)
        except BlockingIOError:
            return []
        found: list[str] = []
        at = 0
        while at < len(events):
            number, mask, _, length = self._HEAD.unpack_from(events, at)
            found.append(f"{self._names.get(number)}: event {mask:#x}")
            at += self._HEAD.size + length
        return found

    def close(self) -> None:
        """Watch no longer."""
        os.close(self.fd)


def _watch(victim: Victim, watch: Watch) -> None:
    watch.add(victim.outside)
    for path, _ in walk(victim.outside):
        watch.add(path)
    for path, is_folder in walk(victim.image):
        if not is_folder and not stat.S_ISREG(path.lstat().st_mode):
            watch.add(path)


def is_changed(victim: Victim, source: Path) -> bool:
    """Whether any file of an image is not what it was."""

    def files_of(image: Path) -> dict[str, Path]:
        return {
            os.path.relpath(path, image): path
            for path, is_folder in walk(image)
            if not is_folder
        }

    one, other = files_of(source), files_of(victim.image)
    if one.keys() != other.keys():
        return True
    for name, path in one.items():
        was, is_ = path.lstat(), other[name].lstat()
        if os.path.samestat(was, is_):
            continue
        if not stat.S_ISREG(is_.st_mode) or was.st_size != is_.st_size:
            return True
        if path.read_bytes() != other[name].read_bytes():  # of the same size
            return True
    return False


def _measured(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise AssertionError(field)


class Trial:
    """One image, tried in every way.

    :param watch: of files that nobody looks at any more
    """

    def __init__(
        self, number: int, sources: list[Path], folder: Path, watch: Watch
    ) -> None:
        self._watch = watch
        self._runner = asyncio.Runner()
        self.victim = tamper(random.Random(number), sources, folder)
        self.problems: list[str] = []
        self.errors: dict[str, str] = {}
        self.cpu_s = 0.0
        self.memory = 0
        self._source = next(it for it in sources if it.name == self.victim.notes[0])

    def run(self) -> None:
        """Do everything that can be done with an image."""
        victim = self.victim
        must_be_found = (
            victim.late is None
            and not victim.sealed
            and (victim.image / layout.MANIFEST).is_file()
            and (self._source / layout.MANIFEST).is_file()
            and is_changed(victim, self._source)
        )
        watch = self._watch
        _watch(victim, watch)
        opened = 0
        open_file = ImageDirectory._open

        def interrupted(directory: ImageDirectory, name: str) -> int | None:
            nonlocal opened
            opened += 1
            if victim.late is not None and opened == victim.late_at:
                try:
                    victim.late()
                except (OSError, IndexError, MemoryError):
                    pass
                watch.seen()
            return open_file(directory, name)

        ImageDirectory._open = interrupted  # type: ignore[method-assign]
        try:
            watch.seen()
            for name, operation in OPERATIONS.items():
                outcome = self._try(name, operation)
                if name == "verify" and outcome is True and must_be_found:
                    self.problems.append("verify: finds nothing")
                self.problems += [f"{name}: {event}" for event in watch.seen()]
        finally:
            ImageDirectory._open = open_file  # type: ignore[method-assign]
            self._runner.close()
        left = {path.name for path in victim.image.parent.iterdir()}
        if left - {"image", "outside"}:
            self.problems.append(f"left: {left}")

    def _try(self, name: str, operation: Callable[[Path], Awaitable[object]]) -> object:
        async def work() -> object:
            return await operation(self.victim.image)

        signal.alarm(HANGS_AFTER_S)
        self._runner.get_loop()  # it has descriptors of its own
        fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
        before, start = _measured("VmRSS"), time.process_time()
        outcome: object = None
        try:
            outcome = self._runner.run(work())
        except sa.ImageError as error:
            self.errors[name] = type(error).__name__
            if len(orjson.dumps(output._encodable([str(error)]))) > _LONG:
                self.problems.append(f"{name}: an error of {len(str(error))} letters")
        except sa.StoreError as error:
            self.errors[name] = type(error).__name__
            if not name.startswith("convert"):
                self.problems.append(f"{name}: {error!r}")
        except BaseException as error:  # noqa: BLE001 - told, all of them
            self.errors[name] = type(error).__name__
            self.problems.append(f"{name}: {_trace(error)}")
        else:
            self.errors[name] = "nothing"
        cpu_s = time.process_time() - start
        memory = _measured("VmHWM") - before
        signal.alarm(0)
        if cpu_s > MAX_CPU_S:
            self.problems.append(f"{name}: {cpu_s:.2f} s of CPU")
        if memory > MAX_MEMORY:
            self.problems.append(f"{name}: {memory / 2**20:.0f} MiB")
        if len(os.listdir("/proc/self/fd")) > fds:
            self.problems.append(f"{name}: descriptors left")
        if threading.active_count() > threads:
            self.problems.append(f"{name}: threads left")
        self.cpu_s = max(self.cpu_s, cpu_s)
        self.memory = max(self.memory, memory)
        return outcome


def _trace(error: BaseException) -> str:
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    inner = getattr(error, "exceptions", ())
    return f"{error!r:.300} at {' '.join(places[-6:])} {list(map(_trace, inner))}"


def main() -> None:
    """Try images, and print what came of each."""
    sources = sorted(Path(sys.argv[1]).iterdir())
    folder = Path(sys.argv[2])
    limit = 2 << 30  # what asks for more must not take the machine down
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    faulthandler.register(signal.SIGALRM, chain=True)  # tells where, and ends
    watch = Watch()
    for number in range(int(sys.argv[3]), int(sys.argv[4])):
        place = folder / str(number)
        place.mkdir()
        trial = Trial(number, sources, place, watch)
        trial.run()
        told = {
            "number": number,
            "notes": trial.victim.notes,
            "errors": trial.errors,
            "problems": trial.problems,
            "cpu_s": trial.cpu_s,
            "memory": trial.memory,
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        remove(place)


if __name__ == "__main__":
    main()

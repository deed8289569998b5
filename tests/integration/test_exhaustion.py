"""A disk that is full, and no descriptors left: said clearly, with nothing left behind."""

import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

import sandlock_async as sa
from tests.conftest import Tracee
from tests.integration.aftermath import Aftermath, Way
from tests.unit.stages import mounted

pytestmark = pytest.mark.usefixtures("nothing_left")

_STEP = 64 << 10
_PAGE = 4096


@pytest.fixture
def full_of(spawn: Callable[..., Tracee], tmp_path: Path) -> Callable[[Way], Aftermath]:
    def make(way: Way) -> Aftermath:
        mapped = tmp_path / "mapped"
        mapped.write_bytes(bytes(range(256)) * 512)
        return Aftermath(way, spawn("varied", mapped), tmp_path / "store")

    return make


@pytest.mark.parametrize(
    "way",
    [
        Way(name="direct", old=False, options={"strategy": "direct"}),
        Way(name="replace", options={"strategy": "direct", "durable": True}),
        Way(name="spilled", options={"strategy": "direct", "memory_limit": 0}),
        Way(name="fork", options={"strategy": "fork"}),
    ],
    ids=lambda way: way.name,
)
async def test_disk_full_at_every_step(
    way: Way, full_of: Callable[[Way], Aftermath], tmp_path: Path
) -> None:
    it = full_of(way)
    store = tmp_path / "store"
    store.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=64m", "tmpfs", store):
        async with it.watched():
            used = _used(store)
            size = used + _PAGE
            errors: list[BaseException] = []
            while True:
                _resize(store, size)
                error = await it.attempt(f"{size} bytes", nullcontext())
                if error is None:
                    break
                errors.append(error)
                size += _STEP
            it.check()
            _resize(store, 64 << 20)

    assert len(errors) > 4
    for error in errors:
        assert isinstance(error, sa.NoSpaceError), error
        assert 0 <= error.free < error.needed <= 2 * (size - used)
        assert f"{error.needed} bytes needed, {error.free} free" in str(error)
        assert error.help


async def test_no_descriptors_left(full_of: Callable[[Way], Aftermath]) -> None:
    way = Way(name="files", options={"strategy": "fork", "tree": True})
    it = full_of(way)
    async with it.watched():
        lowest, errors = 3, []
        for limit in range(lowest, 256):
            error = await it.attempt(f"{limit} descriptors", _at_most(limit))
            if error is None:
                break
            errors.append(error)
    it.check()
    assert it.outcomes["captured"] == 1
    for error in errors:
        assert isinstance(error, sa.SandlockAsyncError)
        assert error.help


async def test_no_thread_to_be_had(
    spawn: Callable[..., Tracee], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracee = spawn("unnoticed", "early")
    image, new = tmp_path / "it", tmp_path / "new"
    await sa.capture_to(tracee.pid, image, durable=False)
    checkpoint = await sa.Checkpoint.load(image)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # as CPython says it

    monkeypatch.setattr(threading.Thread, "start", start)
    for call, error_type in (
        (sa.Checkpoint.load(image), sa.ImageError),
        (sa.verify(image), sa.ImageError),
        (sa.list_checkpoints(tmp_path), sa.ImageError),
        (checkpoint.save(new), sa.StoreError),
        (sa.convert(image, new, format="v3"), sa.StoreError),
        (sa.capture_to(tracee.pid, new), sa.UncapturableError),
        (sa.capture(tracee.pid), sa.UncapturableError),
    ):
        with pytest.raises(error_type, match="cannot start a thread") as caught:
            await call
        assert "ulimit -u" in caught.value.help
    await checkpoint.aclose()
    assert not new.exists()


def _used(folder: Path) -> int:
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _resize(folder: Path, size: int) -> None:
    command = ["mount", "-o", f"remount,size={size}", str(folder)]
    subprocess.run(command, check=True)


@contextmanager
def _at_most(limit: int) -> Iterator[None]:
    """Open files whose numbers are lower than *limit*, and no others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

"""A capture that has a name is made once, however often it is asked for."""

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

import sandlock_async as sa
from tests.unit.stages import staged

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_it_is_made_once(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    first = await sa.capture_to(sleeper, tmp_path / "it", operation_id="nightly-7")
    before = (tmp_path / "it").stat().st_ino

    for replace in (False, True):
        again = await sa.capture_to(
            sleeper, tmp_path / "it", operation_id="nightly-7", replace=replace
        )
        assert again == first

    assert (tmp_path / "it").stat().st_ino == before
    (tmp_path / "it").rename(tmp_path / "moved")
    moved = await sa.capture_to(sleeper, tmp_path / "moved", operation_id="nightly-7")
    assert moved.path == tmp_path / "moved"
    assert moved.total_ms == first.total_ms
    assert (await sa.verify(tmp_path / "moved")).ok


async def test_another_name_is_another_capture(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "it", operation_id="a")
    for operation_id in ("b", None):
        with pytest.raises(sa.CheckpointExistsError):
            await sa.capture_to(sleeper, tmp_path / "it", operation_id=operation_id)
    second = await sa.capture_to(
        sleeper, tmp_path / "it", operation_id="b", replace=True
    )
    assert second == await sa.capture_to(sleeper, tmp_path / "it", operation_id="b")


async def test_the_process_may_be_gone_by_then(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        first = await sa.capture_to(process, tmp_path / "it", operation_id="it")
        pid = process.pid
        process.kill()
    assert await sa.capture_to(pid, tmp_path / "it", operation_id="it") == first
    with pytest.raises(sa.ProcessGoneError):
        await sa.capture_to(pid, tmp_path / "other", operation_id="it")


async def test_asked_for_many_times_at_once(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    reports = await asyncio.gather(
        *(
            sa.capture_to(sleeper, tmp_path / "it", operation_id="x", durable=False)
            for _ in range(8)
        )
    )
    assert all(report == reports[0] for report in reports)
    assert os.listdir(tmp_path) == ["it"]


async def test_asked_for_many_times_at_once_what_is_there_is_replaced_once(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "it", operation_id="old")

    reports = await asyncio.gather(
        *(
            sa.capture_to(
                sleeper, tmp_path / "it", operation_id="x", durable=False, replace=True
            )
            for _ in range(6)
        )
    )

    last = await sa.capture_to(sleeper, tmp_path / "it", operation_id="x")
    assert all(report == last for report in reports)
    assert os.listdir(tmp_path) == ["it"]


@pytest.mark.parametrize("before", [None, "a", "x"])
def test_whoever_commits_last_finds_what_is_there(
    before: str | None, tmp_path: Path
) -> None:
    kept: list[bool] = []

    def keep(fd: int) -> bool:
        with open(
            "meta.json", opener=lambda name, _: os.open(name, 0, dir_fd=fd)
        ) as it:
            kept.append(it.read() == "x")
        return kept[-1]

    with staged(tmp_path / "it") as first, staged(tmp_path / "it") as second:
        if before is not None:
            with staged(tmp_path / "it") as there:
                there.commit(before.encode())
        if before != "x":
            first.commit(b"x", keep)
        with pytest.raises(sa.CheckpointExistsError):
            second.commit(b"x", keep)

    assert kept == {None: [True], "a": [False, True], "x": [True]}[before]
    assert (tmp_path / "it" / "meta.json").read_bytes() == b"x"
    assert os.listdir(tmp_path) == ["it"]


def test_nobody_waits_for_a_lock_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandlock_async.store.stage._HELD_S", 0.01)
    with staged(tmp_path / "it") as there:
        there.commit(b"a")
    fd = os.open(tmp_path / "it", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with staged(tmp_path / "it") as opened:
            opened.commit(b"x", lambda _: False)
    finally:
        os.close(fd)

    assert (tmp_path / "it" / "meta.json").read_bytes() == b"x"


async def test_a_damaged_record_is_told(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "it", operation_id="x")
    record = tmp_path / "it" / "extended" / "operation.json"
    content = orjson.loads(record.read_bytes())
    content["report"]["threads"] = "many"
    record.write_bytes(orjson.dumps(content))
    with pytest.raises(sa.ImageCorruptError, match="threads"):
        await sa.capture_to(sleeper, tmp_path / "it", operation_id="x")


def _without_process(image: Path) -> None:
    shutil.rmtree(image / "process")
    (image / "meta.json").unlink()


def _emptied(image: Path) -> None:
    for file in (image / "process").rglob("*.bin"):
        os.truncate(file, 0)


def _altered(image: Path) -> None:
    info = image / "process" / "info.json"
    info.write_bytes(info.read_bytes().replace(b"/", b"!"))


def _unrecorded(image: Path) -> None:
    os.truncate(image / "extended" / "operation.json", 0)


def _unlisted(image: Path) -> None:
    (image / "extended" / "manifest.json").unlink()


@pytest.mark.parametrize(
    "damage", [_without_process, _emptied, _altered, _unrecorded, _unlisted]
)
async def test_what_is_damaged_is_not_done(
    damage: Callable[[Path], None], sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    image = tmp_path / "it"
    first = await sa.capture_to(sleeper, image, operation_id="x", durable=False)
    damage(image)

    with pytest.raises(sa.ImageCorruptError) as caught:
        await sa.capture_to(sleeper, image, operation_id="x")

    assert "replace=True" in caught.value.help
    if damage is _without_process:
        with pytest.raises(sa.StoreError, match="no checkpoint"):
            await sa.capture_to(sleeper, image, operation_id="x", replace=True)
        return
    second = await sa.capture_to(sleeper, image, operation_id="x", replace=True)
    assert second != first
    assert (await sa.verify(image)).ok


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
async def test_what_others_have_put_there_is_not_done(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    image = tmp_path / "it"
    first = await sa.capture_to(sleeper, image, operation_id="x")
    os.chown(image, 65534, 65534)

    with pytest.raises(sa.CheckpointExistsError):
        await sa.capture_to(sleeper, image, operation_id="x")
    second = await sa.capture_to(sleeper, image, operation_id="x", replace=True)

    assert second != first
    assert image.stat().st_uid == 0


async def test_a_link_to_it_is_not_it(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "it", operation_id="x")
    (tmp_path / "link").symlink_to("it")
    with pytest.raises(sa.CheckpointExistsError):
        await sa.capture_to(sleeper, tmp_path / "link", operation_id="x")


async def test_another_layout_is_not_what_was_made(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "it", operation_id="x")
    for replace in (False, True):
        with pytest.raises(sa.StoreError, match="format v1, not v3") as caught:
            await sa.capture_to(
                sleeper,
                tmp_path / "it",
                operation_id="x",
                format="v3",
                replace=replace,
            )
        assert caught.value.help


@pytest.mark.parametrize(
    ("operation_id", "error"),
    [("", ValueError), ("x" * 201, ValueError), ("a\nb", ValueError), (7, TypeError)],
)
async def test_names(operation_id: str, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match="operation_id"):
        await sa.capture_to(1, tmp_path / "it", operation_id=operation_id)


def test_the_option(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    def run() -> bytes:
        line = [sys.executable, "-m", "sandlock_async", "capture", str(sleeper.pid)]
        line += [str(tmp_path / "it"), "--operation-id", "x", "--json"]
        return subprocess.run(line, capture_output=True, check=True, timeout=60).stdout

    assert run() == run()

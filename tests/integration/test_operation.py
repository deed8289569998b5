"""A capture that has a name is made once, however often it is asked for."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

import sandlock_async as sa

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

"""From layout to layout: nothing lost, nothing copied that can be shared."""

import os
import shutil
import subprocess
from pathlib import Path

import orjson
import pytest

import sandlock_async as sa
from sandlock_async.store.stream import _open as open_memory_file
from tests.conftest import Tracee
from tests.integration.test_capture import tree
from tests.integration.test_cli import run

pytestmark = pytest.mark.usefixtures("nothing_left")
GOLDEN = Path(__file__).parent.parent / "golden"


def base(path: Path) -> dict[str, bytes]:
    return {
        name: content
        for name, content in tree(path).items()
        if not name.startswith("extended/")
    }


async def test_around_and_back(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "a", app_state=b"state")

    for source, target, to in (
        ("a", "b", "v2"),
        ("b", "c", "v3"),
        ("c", "d", "v1"),
    ):
        report = await sa.convert(tmp_path / source, tmp_path / target, format=to)
        assert report.format == to
        assert report.warnings == ()
        assert report.linked_bytes > 0

    assert tree(tmp_path / "d") == tree(tmp_path / "a")
    async with (
        await sa.Checkpoint.load(tmp_path / "a") as one,
        await sa.Checkpoint.load(tmp_path / "c") as other,
    ):
        assert other.format == "v3"
        assert one.process_state.all_segments() == other.process_state.all_segments()
        assert one.process_state.threads == other.process_state.threads
        assert one.process_state.details == other.process_state.details
        assert one.process_state.vm_areas == other.process_state.vm_areas


@pytest.mark.parametrize("format", ["v1", "v2", "v3"])
async def test_written_in_each_layout_and_loaded(
    format: str, sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    async with await sa.capture(sleeper, name="it") as checkpoint:
        await checkpoint.save(tmp_path / "it", format=format)
        async with await sa.Checkpoint.load(tmp_path / "it") as loaded:
            assert loaded.format == format
            assert (
                loaded.process_state.all_segments()
                == checkpoint.process_state.all_segments()
            )
            assert loaded.process_state.threads == checkpoint.process_state.threads
            sa.decode_policy(format, loaded.policy)
            relro = [area for area in loaded.process_state.vm_areas if area.changed]
            assert relro
            starts = {segment.start for segment in loaded.process_state.all_segments()}
            assert {area.map.start for area in relro} <= starts


async def test_memory_files_are_shared_and_survive_each_other(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "a", format="v2")

    await sa.convert(tmp_path / "a", tmp_path / "b", format="v3")

    files = list((tmp_path / "a/process/memory").iterdir())
    assert files
    for file in files:
        assert file.samefile(tmp_path / "b/process/memory" / file.name)
    before = base(tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    assert base(tmp_path / "b") == before


async def test_what_cannot_be_shared_is_copied(tmp_path: Path) -> None:
    # GIVEN files that others may write to
    shutil.copytree(GOLDEN / "v1" / "sleep", tmp_path / "a")
    for file in (tmp_path / "a").rglob("*.bin"):
        file.chmod(0o666)

    report = await sa.convert(tmp_path / "a", tmp_path / "b", format="v1")

    assert report.copied_bytes > report.linked_bytes == 0
    assert base(tmp_path / "b") == base(tmp_path / "a")


@pytest.mark.parametrize("name", ["sleep", "sleep-state"])
@pytest.mark.parametrize("target", ["v1", "v2", "v3"])
async def test_from_sandlock_to_each(name: str, target: str, tmp_path: Path) -> None:
    # In its own layout the base files stay as they are, odd spacing and all.
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / "v1" / name, source)
    meta = source / "meta.json"
    meta.write_bytes(meta.read_bytes().replace(b": ", b":   ") + b"\n")

    report = await sa.convert(source, tmp_path / "it", format=target)

    if target == "v1":
        assert base(tmp_path / "it") == base(source)
        assert report.warnings == ()
    else:
        assert any("never restore" in warning for warning in report.warnings)
        back = await sa.convert(tmp_path / "it", tmp_path / "back", format="v1")
        meta.write_bytes((GOLDEN / "v1" / name / "meta.json").read_bytes())
        assert base(tmp_path / "back") == base(source)
        assert not back.warnings


async def test_a_policy_that_is_none_is_passed_through(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "a", policy=b"not a policy")

    report = await sa.convert(tmp_path / "a", tmp_path / "b", format="v3")

    assert (tmp_path / "b/policy.dat").read_bytes() == b"not a policy"
    assert any("passed through" in warning for warning in report.warnings)


async def test_what_another_version_cannot_say(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    policy = sa.default_policy("v3")
    fields = {**policy.fields, "http_ca_out": "/tmp/ca.pem"}

    async with await sa.capture(
        sleeper, policy=sa.Policy(version="v3", fields=fields)
    ) as checkpoint:
        with pytest.warns(sa.ConversionWarning, match="http_ca_out"):
            await checkpoint.save(tmp_path / "it", format="v1")
        await checkpoint.save(tmp_path / "same", format="v3")

    stored = (tmp_path / "same/policy.dat").read_bytes()
    assert sa.decode_policy("v3", stored).fields == fields


def test_from_the_command_line(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    captured = run("capture", sleeper.pid, tmp_path / "a", "--format", "v3")
    converted = run("convert", tmp_path / "a", tmp_path / "b", "--format=v1", "--json")
    inspected = run("inspect", tmp_path / "b", "--json")

    assert captured.returncode == converted.returncode == inspected.returncode == 0
    report = orjson.loads(converted.stdout)
    assert set(report) == {
        "path",
        "format",
        "linked_bytes",
        "copied_bytes",
        "warnings",
    }
    image = orjson.loads(inspected.stdout)
    assert image["format"] == "v1"
    assert image["policy"]["version"] == "v1"
    assert image["extended_segments"]
    assert run("convert", tmp_path / "a", tmp_path / "b", "--format=v1").returncode == 1
    assert run("convert", tmp_path / "a", tmp_path / "c").returncode == 2


async def test_dontdump_is_left_out_on_request(tmp_path: Path) -> None:
    code = """
import ctypes, mmap, sys
memory = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:6] = b"secret"
memory.madvise(mmap.MADV_DONTDUMP)
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        ["python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        address = int(process.stdout.readline())
        tracee = Tracee(process, None)  # type: ignore[arg-type]

        kept = await sa.capture_to(process, tmp_path / "kept")
        report = await sa.capture_to(process, tmp_path / "out", exclude_dontdump=True)

        assert tracee.tracers() == {"0"}
        process.communicate()
    assert not kept.skipped
    (skipped,) = report.skipped
    assert skipped.start <= address < skipped.end
    assert "DONTDUMP" in skipped.reason
    assert os.listdir(tmp_path / "out")


async def test_into_itself(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    await sa.capture_to(sleeper, tmp_path / "a")

    for inside in ("a/b", "a/process/memory/b"):
        with pytest.raises(sa.StoreError, match="lies in the checkpoint"):
            await sa.convert(tmp_path / "a", tmp_path / inside, format="v2")

    assert sorted(os.listdir(tmp_path / "a")) == [
        "extended",
        "meta.json",
        "policy.dat",
        "process",
    ]


def test_a_file_of_another_image_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "committed").write_bytes(b"A" * 100)
    os.link(tmp_path / "committed", tmp_path / "stage")

    with pytest.raises(FileExistsError):
        open_memory_file(tmp_path / "stage")

    assert (tmp_path / "committed").read_bytes() == b"A" * 100

"""A process with all its descendants, in one consistent cut."""

import os
import shlex
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

import sandlock_async as sa
from sandlock_async.image import layout
from tests.conftest import Tracee, until
from tests.integration.test_cli import run
from tests.integration.tokens import place_of_token
from tests.programs.status import FIRST, SECOND

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("strategy", ["direct", "fork"])
async def test_a_token_is_in_one_place(
    strategy: str, spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("token")
    place = tracee.status[FIRST]
    until(lambda: all(tracee.status[SECOND + n] for n in range(5)), "five processes")
    pids = [tracee.status[SECOND + number] for number in range(5)]
    store = tmp_path / "store"
    caught: Counter[str] = Counter()

    for _ in range(50):
        report = await sa.capture_to(
            tracee.pid,
            store / "it",
            tree=True,
            strategy=strategy,
            replace=True,
            durable=False,
        )
        assert set(report.children) == set(pids[1:])
        images = [store / "it"]
        images += [store / "it" / layout.child_name(pid, "") for pid in report.children]
        caught[await place_of_token(images, place)] += 1

    assert caught["memory"]
    assert caught["pipe"]
    assert os.listdir(store) == ["it"]
    tracee.check_runs_on()
    for pid in pids[1:]:
        assert "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text()


async def test_children_that_come_and_go(
    spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("forks.py")

    for _ in range(20):
        report = await sa.capture_to(
            tracee.pid, tmp_path / "it", tree=True, replace=True, durable=False
        )
        names = (
            sorted(os.listdir(tmp_path / "it" / layout.CHILDREN))
            if (report.children)
            else []
        )
        assert names == sorted(map(str, report.children))
        for pid in report.children:
            path = tmp_path / "it" / layout.child_name(pid, "")
            async with await sa.Checkpoint.load(path) as child:
                assert child.process_state.pid == pid
                assert child.name == str(pid)
        tracee.check_runs_on()


async def test_without_children_and_beyond_the_budget(
    spawn: Callable[..., Tracee], sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    alone = await sa.capture_to(sleeper, tmp_path / "alone", tree=True)
    assert alone.children == ()
    assert not (tmp_path / "alone" / layout.CHILDREN).exists()

    tracee = spawn("token")
    report = await sa.capture_to(
        tracee.pid, tmp_path / "small", tree=True, memory_limit=0
    )
    assert "did not fit" in report.reason
    assert len(report.children) == 4
    for pid in report.children:
        path = tmp_path / "small" / layout.child_name(pid, "")
        async with await sa.Checkpoint.load(path) as child:
            assert child.process_state.memory_data
    tracee.check_runs_on()


async def test_converted_with_its_children(
    spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("token")
    report = await sa.capture_to(tracee.pid, tmp_path / "a", tree=True)

    await sa.convert(tmp_path / "a", tmp_path / "b", format="v3")
    await sa.convert(tmp_path / "b", tmp_path / "c", format="v1")

    assert tree(tmp_path / "c") == tree(tmp_path / "a")
    for pid in report.children:
        path = tmp_path / "b" / layout.child_name(pid, "")
        async with await sa.Checkpoint.load(path) as child:
            assert child.format == "v3"


def tree(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


async def test_inspect_says_where_the_children_are(
    spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    path = tmp_path / "the tree"
    report = await sa.capture_to(spawn("token").pid, path, tree=True)

    shown = orjson.loads(run("inspect", path, "--json").stdout)["children"]
    text = run("inspect", path).stderr.decode()

    assert shown == sorted(report.children)
    hints = [line for line in text.splitlines() if "sandlock-async inspect" in line]
    assert len(hints) == len(shown) == 4
    for pid, hint in zip(shown, hints, strict=True):
        number, _, *command = shlex.split(hint)
        assert int(number) == pid
        child = orjson.loads(run(*command, "--json").stdout)
        assert (child["pid"], child["name"]) == (pid, str(pid))
        assert child["children"] == []
    childless = path / layout.child_name(shown[0], "")
    assert b"sandlock-async inspect" not in run("inspect", childless).stderr


async def test_hostile_children(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    await sa.capture_to(sleeper, tmp_path / "a")
    (tmp_path / "a" / layout.CHILDREN).mkdir()
    (tmp_path / "a" / layout.CHILDREN / "1").symlink_to(tmp_path / "a")

    with pytest.raises(sa.ImageCorruptError):
        await sa.convert(tmp_path / "a", tmp_path / "b", format="v2")

    assert not (tmp_path / "b").exists()
    # Nobody follows it; what is no process's number is told.
    assert orjson.loads(run("inspect", tmp_path / "a", "--json").stdout)[
        "children"
    ] == [1]
    (tmp_path / "a" / layout.CHILDREN / "one").mkdir()
    error = orjson.loads(run("inspect", tmp_path / "a", "--json").stdout)["error"]
    assert error["type"] == "ImageCorruptError"
    assert "one" in error["message"]

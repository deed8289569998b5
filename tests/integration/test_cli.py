"""The command line: what it prints where, how it ends, what it leaves."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from sandlock_async.cli.app import _system_failure
from tests.conftest import Tracee, until

COMMAND = [sys.executable, "-m", "sandlock_async"]


def run(*arguments: object) -> "subprocess.CompletedProcess[bytes]":
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60)


def test_capture_inspect_list(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    captured = run("capture", sleeper.pid, tmp_path / "web", "--json")
    inspected = run("inspect", tmp_path / "web", "--json")
    listed = run("list", tmp_path, "--json")

    assert captured.returncode == inspected.returncode == listed.returncode == 0
    report = orjson.loads(captured.stdout)
    assert report["pid"] == sleeper.pid
    assert report["path"] == str(tmp_path / "web")
    image = orjson.loads(inspected.stdout)
    assert any(
        this["start"] <= image["pc"] < this["end"] and "x" in this["perms"]
        for this in image["memory_maps"]
    )
    assert image["threads"][0]["tid"] == sleeper.pid
    assert image["segments"]
    for this in image["fds"]:
        assert set(this) == {"fd", "path", "flags", "offset", "kind", "details"}
        assert isinstance(this["kind"], str)
        assert "same_as" in this["details"]
    (entry,) = orjson.loads(listed.stdout)["checkpoints"]
    assert (entry["name"], entry["pid"]) == ("web", sleeper.pid)


def test_people_read_stderr(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    done = run("capture", sleeper.pid, tmp_path / "web")

    assert done.returncode == 0
    assert done.stdout == b""
    assert b"frozen" in done.stderr
    assert b"\x1b[" not in done.stderr


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_an_expected_error(tmp_path: Path, as_json: bool) -> None:
    flags = ["--json"] if as_json else []

    done = run("capture", 4194304, tmp_path / "web", *flags)

    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    if as_json:
        error = orjson.loads(done.stdout)["error"]
        assert error["type"] == "ProcessGoneError"
        assert "4194304" in error["message"]
    else:
        assert done.stdout == b""
        assert b"process 4194304 is gone" in done.stderr
    assert os.listdir(tmp_path) == []


def test_no_checkpoint(tmp_path: Path) -> None:
    done = run("inspect", tmp_path / "no", "--json")

    assert done.returncode == 1
    message = f"Checkpoint not found: {tmp_path / 'no'}"
    assert orjson.loads(done.stdout)["error"]["message"] == message


def test_wrong_usage(tmp_path: Path) -> None:
    assert run("capture", "abc", tmp_path / "web").returncode == 2
    assert run("nonsense").returncode == 2
    for name in ("", "a\nb", "x" * 201):
        done = run("capture", 1, tmp_path / "web", "--operation-id", name)
        assert done.returncode == 2
        assert b"operation_id must be" in done.stderr
        assert b"bug" not in done.stderr
    for command in ("capture $$ web", "check $$"):
        line = f"exec {sys.executable} -m sandlock_async {command}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, check=False)
        assert done.returncode == 2
        assert b"cannot capture itself" in done.stderr
    assert "error" in orjson.loads(run("capture", "--json").stdout)


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_interrupted(
    signum: int, code: int, spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("big.py", 256 << 20, 1)
    store = tmp_path / "store"
    command = [*COMMAND, "capture", str(tracee.pid), str(store / "it")]
    process = subprocess.Popen([*command, "--memory-limit", "0"], stderr=-1)
    until(lambda: tracee.tracers() != {"0"}, "the freeze")

    process.send_signal(signum)
    process.communicate(timeout=30)

    assert process.returncode == code
    assert not store.exists() or os.listdir(store) == []
    tracee.check_runs_on()


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_interrupted_while_it_is_imported(tmp_path: Path, as_json: bool) -> None:
    (tmp_path / "rich_click.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    flags = ["--json"] if as_json else []

    done = subprocess.run(
        [*COMMAND, "list", str(tmp_path), *flags],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )

    assert done.returncode == 130
    assert b"Traceback" not in done.stderr
    if as_json:
        assert orjson.loads(done.stdout)["error"]["type"] == "Interrupted"
    else:
        assert (done.stdout, done.stderr) == (b"", b"error: interrupted\n")


def test_denied() -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "policy.dat")

    failure = _system_failure(error)

    assert failure.message == "policy.dat: Permission denied"
    assert failure.help


def test_demo(tmp_path: Path) -> None:
    pytest.importorskip("sandlock")

    done = run("demo", tmp_path / "demo", "--json")

    assert done.returncode == 0, done.stderr.decode()
    assert all(check["ok"] for check in orjson.loads(done.stdout)["checks"])

"""A number that is given anew never stands for the process that had it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sandlock_async as sa
from sandlock_async import tracing
from tests.conftest import missing

pytestmark = pytest.mark.usefixtures("nothing_left")

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
_TRIES = 200


@pytest.fixture
def give_anew() -> Iterator[Callable[[int], "subprocess.Popen[bytes]"]]:
    """Start a process with a number that is free."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to choose the next pid (ns_last_pid)")
    if not LAST_PID.exists():
        missing("ns_last_pid (CONFIG_CHECKPOINT_RESTORE)")
    started: list[subprocess.Popen[bytes]] = []

    def start(pid: int) -> "subprocess.Popen[bytes]":
        for _ in range(_TRIES):
            LAST_PID.write_text(str(pid - 1))
            started.append(subprocess.Popen(["sleep", "60"]))
            if started[-1].pid == pid:
                return started[-1]
        raise AssertionError(f"the number {pid} was not to be had")

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("strategy", ["direct", "fork"])
async def test_the_next_one_is_let_alone(
    strategy: str,
    give_anew: Callable[[int], "subprocess.Popen[bytes]"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # GIVEN a process that ends after it was looked at, and one that gets its number
    victim = subprocess.Popen(["sleep", "60"])
    make_subject = tracing.make_subject
    heirs: list[subprocess.Popen[bytes]] = []

    def make(*arguments: object) -> object:
        victim.kill()
        victim.wait()
        heirs.append(give_anew(victim.pid))
        return make_subject(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tracing, "make_subject", make)
    stopped: list[int] = []
    monkeypatch.setattr(
        "sandlock_async.kernel.ptrace.interrupt", lambda tid: stopped.append(tid)
    )

    with pytest.raises(sa.ProcessGoneError, match="given anew"):
        await sa.capture_to(victim.pid, tmp_path / "it", strategy=strategy)

    # THEN that one has not even been stopped
    (heir,) = heirs
    assert heir.pid == victim.pid
    assert not stopped
    assert heir.poll() is None
    assert "TracerPid:\t0" in Path(f"/proc/{heir.pid}/status").read_text()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["subprocess", "asyncio"])
async def test_what_has_been_reaped_is_not_captured(
    kind: str, give_anew: Callable[[int], "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    ended: subprocess.Popen[bytes] | asyncio.subprocess.Process
    if kind == "asyncio":
        ended = await asyncio.create_subprocess_exec("true")
        await ended.wait()
    else:
        ended = subprocess.Popen(["true"])
        ended.wait()
    give_anew(ended.pid)

    with pytest.raises(sa.ProcessGoneError, match="ended, with 0"):
        await sa.capture_to(ended, tmp_path / "it")

    assert os.listdir(tmp_path) == []


def test_proc_of_another_namespace(tmp_path: Path) -> None:
    # Where it is not mounted anew, a number means one process to ptrace(2), and
    # another one to whoever reads /proc.
    code = (
        "import asyncio, subprocess, sys\n"
        "import sandlock_async as sa\n"
        "with subprocess.Popen(['sleep', '60']) as process:\n"
        "    try:\n"
        "        asyncio.run(sa.capture_to(process.pid, sys.argv[1]))\n"
        "    except sa.UncapturableError as error:\n"
        "        print(error, error.help)\n"
        "    process.kill()\n"
    )
    inside = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", code]
    if os.geteuid() != 0:
        inside.insert(1, "--map-root-user")
    done = subprocess.run(
        [*inside, tmp_path / "it"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "unshare" in done.stderr:
        pytest.skip("needs the right to make a pid namespace")
    assert "/proc is that of another pid namespace" in done.stdout, done.stderr
    assert "mount" in done.stdout
    assert os.listdir(tmp_path) == []


async def test_what_is_read_after_the_thaw_is_not_the_heirs(
    give_anew: Callable[[int], "subprocess.Popen[bytes]"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    victim = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    read_lasting = tracing.read_lasting

    def read(*arguments: object) -> object:
        if victim.returncode is None:
            victim.kill()
            victim.communicate()
            give_anew(victim.pid)
        return read_lasting(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tracing, "read_lasting", read)

    report = await sa.capture_to(victim.pid, tmp_path / "it", strategy="direct")

    assert report.pid == victim.pid
    async with await sa.Checkpoint.load(tmp_path / "it") as it:
        assert "cat" in it.process_state.exe
        (thread,) = it.process_state.threads
        assert (thread.name, thread.robust_list) == (None, None)

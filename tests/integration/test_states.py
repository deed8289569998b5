"""What the kernel keeps of threads and processes, as the program itself tells it."""

import os
import resource
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

import sandlock_async as sa
from tests.conftest import Tracee, missing, until
from tests.integration.test_cli import run
from tests.integration.test_targets import memory_at
from tests.programs.status import FIRST, SECOND

pytestmark = pytest.mark.usefixtures("nothing_left")

# XSAVE standard form: xmm0 at 160, the upper half of ymm0 at 576.
_XMM0, _YMM0_HIGH = 160, 576
ACTION = SECOND + 32
STACK, BREAK = ACTION + 4, ACTION + 6
_FS_BASE = 21  # word of NT_PRSTATUS on x86-64


def ymm0(xstate: bytes) -> tuple[int, ...]:
    low = struct.unpack_from("<2Q", xstate, _XMM0)
    return low + struct.unpack_from("<2Q", xstate, _YMM0_HIGH)


@pytest.fixture
def states(spawn: Callable[..., Tracee]) -> Tracee:
    if os.uname().machine != "x86_64":
        pytest.skip("needs x86-64 (ymm registers)")
    try:
        tracee = spawn("states")
    except AssertionError as error:
        if "ended with 6" not in str(error):
            raise
        missing("a CPU with AVX")
        raise
    until(lambda: all(paused(path) for path in tracee.threads()), "threads to pause")
    return tracee


def paused(task: Path) -> bool:
    return (task / "syscall").read_text().startswith("34 ")


async def test_every_thread_is_there_with_all_that_is_its_own(
    states: Tracee, tmp_path: Path
) -> None:
    await sa.capture_to(states.pid, tmp_path / "it")

    async with await sa.Checkpoint.load(tmp_path / "it") as checkpoint:
        threads = {thread.tid: thread for thread in checkpoint.process_state.threads}
        assert len(threads) == 16
        shift = states.status[FIRST] - states.status[SECOND + 1]
        for number in range(16):
            tid, fs = (states.status[SECOND + 2 * number + at] for at in (0, 1))
            thread = threads[tid]
            assert thread.regs[_FS_BASE] == fs
            assert ymm0(thread.xstate) == (
                number,
                ~number & (1 << 64) - 1,
                0x5EED,
                number * 3,
            )
            mine = memory_at(checkpoint, fs + shift, 8)
            assert int.from_bytes(mine, "little") == 0x1000 + number
            blocked = {signal.SIGUSR2, signal.SIGRTMIN + 4 + number}
            assert thread.signal_mask == mask_of(blocked)
            assert [queued.signal for queued in thread.queued] == (
                [signal.SIGRTMIN + 7] if number == 3 else []
            )
            assert thread.name == "states"
            assert thread.robust_list is not None
            assert thread.robust_list.head
            assert thread.rseq is not None

        details = checkpoint.process_state.details
        assert details is not None
        assert details.signals.caught & mask_of({signal.SIGUSR1})
        assert details.signals.ignored & mask_of({signal.SIGPIPE})
        assert [queued.signal for queued in details.signals.queued] == [signal.SIGUSR2]

    image = orjson.loads(run("inspect", tmp_path / "it", "--json").stdout)
    assert [this["tid"] for this in image["threads"]] == list(threads)
    for shown in image["threads"]:
        assert bytes.fromhex(shown["xstate"]) == threads[shown["tid"]].xstate
        assert shown["signal_mask"] == threads[shown["tid"]].signal_mask
    assert image["details"]["signals"]["ignored"] == details.signals.ignored


def mask_of(signals: set[int]) -> int:
    return sum(1 << signum - 1 for signum in signals)


async def test_what_only_the_process_can_ask_for(
    states: Tracee, tmp_path: Path
) -> None:
    report = await sa.capture_to(states.pid, tmp_path / "it")

    assert report.warnings == ()
    image = orjson.loads(run("inspect", tmp_path / "it", "--json").stdout)
    details = image["details"]
    actions = {this["signal"]: this for this in details["signals"]["handlers"]}
    usr1 = actions[signal.SIGUSR1]
    fields = ("handler", "flags", "restorer", "mask")
    assert [usr1[field] for field in fields] == [
        states.status[ACTION + at] for at in range(4)
    ]
    assert usr1["mask"] == mask_of({signal.SIGTERM})
    assert actions[signal.SIGPIPE]["handler"] == signal.SIG_IGN
    sets = details["signals"]
    assert mask_of(set(actions)) == sets["ignored"] | sets["caught"]
    assert details["layout"]["brk"] == states.status[BREAK]
    real, virtual, profiling = details["timers"]
    assert 0 < real["value"] <= 4000_000_000
    assert real["interval"] == 0
    assert (virtual["value"], virtual["interval"]) == (0, 0)
    assert 0 < profiling["value"] <= 3001_000_000
    assert profiling["interval"] == 7_000_005
    main, *others = image["threads"]
    stack = main["alt_stack"]
    assert (stack["address"], stack["size"]) == (
        states.status[STACK],
        states.status[STACK + 1],
    )
    assert all(thread["alt_stack"] is None for thread in others)


async def test_the_process_is_what_it_says_it_is(states: Tracee) -> None:
    proc = Path(f"/proc/{states.pid}")
    async with await sa.capture(states.pid) as checkpoint:
        state = checkpoint.process_state
        details = state.details

    assert details is not None
    assert details.cmdline == (proc / "cmdline").read_bytes()
    assert details.auxv == (proc / "auxv").read_bytes()
    assert details.root == os.readlink(proc / "root")
    assert details.credentials.uids == (os.getuid(),) * 4
    assert details.exe_file is not None
    assert details.exe_file.inode == (proc / "exe").stat().st_ino
    assert len(details.exe_build_id) == 20
    files = next(this for this in details.limits if this.name == "Max open files")
    assert (files.soft, files.hard) == resource.getrlimit(resource.RLIMIT_NOFILE)
    umask = os.umask(0)
    os.umask(umask)
    assert details.umask == umask
    stack = next(this for this in state.memory_maps if this.path == "[stack]")
    assert stack.start <= details.layout.start_stack < stack.end
    argument = details.cmdline.split(b"\0")[0]
    assert stack.start < details.layout.arg_start < details.layout.env_start
    assert details.layout.arg_end - details.layout.arg_start == len(details.cmdline)
    assert argument.endswith(b"states")
    lines = (proc / "maps").read_text().splitlines()
    assert len(state.vm_areas) == len(lines)
    for area in state.vm_areas:
        if area.map.has_file:
            assert area.file is not None
            assert area.file.inode == area.inode
        assert "rd" in area.vm_flags or not area.map.readable


async def test_exec_shows(tmp_path: Path, spawn: Callable[..., Tracee]) -> None:
    # Details read before the freeze are of the program that is captured.
    tracee = spawn("exec_loop", 0)

    for _ in range(20):
        async with await sa.capture(tracee.pid) as checkpoint:
            state = checkpoint.process_state
            assert state.details is not None
            stack = next(this for this in state.memory_maps if this.path == "[stack]")
            layout = state.details.layout
            assert stack.start < layout.arg_start < layout.arg_end <= stack.end
            offset = layout.arg_start
            size = layout.arg_end - offset
            assert memory_at(checkpoint, offset, size) == state.details.cmdline
    tracee.check_runs_on()

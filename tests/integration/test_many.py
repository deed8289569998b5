"""Many processes in one call: each for itself, or all in one consistent cut."""

import asyncio
import contextlib
import errno
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import sandlock_async as sa
from sandlock_async.budget import BUDGET
from sandlock_async.capture import carry_out
from sandlock_async.scene import Scene
from sandlock_async.store.draft import Draft
from sandlock_async.store.stage import Stage
from sandlock_async.tracing import take_scene
from tests.conftest import Tracee, missing, until
from tests.integration.tokens import place_of_token
from tests.integration.wheels import READABLE
from tests.programs.status import FIRST, SECOND

pytestmark = pytest.mark.usefixtures("nothing_left")

each_way = pytest.mark.parametrize("consistent", [False, True], ids=["each", "cut"])


@pytest.fixture
def sleepers() -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Twelve processes that sleep."""
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(12)]
    for process in processes:
        comm = Path(f"/proc/{process.pid}/comm")
        until(lambda comm=comm: comm.read_text() == "sleep\n", "sleep to be executed")
    yield processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def check_untraced(pid: int) -> None:
    status = Path(f"/proc/{pid}/status").read_text()
    assert "TracerPid:\t0" in status
    assert "State:\tt" not in status


@each_way
async def test_the_outcomes_are_in_order(
    consistent: bool, sleepers: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    wanted = [
        (target, tmp_path / "store" / f"c{number}")
        for number, target in enumerate(sleepers)
    ]

    outcomes = await sa.capture_many(
        wanted, consistent=consistent, format="v3", durable=False
    )

    assert len(outcomes) == len(wanted)
    for (target, path), outcome in zip(wanted, outcomes, strict=True):
        assert isinstance(outcome, sa.CaptureReport)
        assert (outcome.pid, outcome.path) == (target.pid, path)
        assert (outcome.name, outcome.format, outcome.threads) == (path.name, "v3", 1)
        assert 0 < outcome.freeze_ms < outcome.total_ms
        async with await sa.Checkpoint.load(path) as checkpoint:
            assert checkpoint.process_state.pid == target.pid
            assert checkpoint.process_state.memory_data
        check_untraced(target.pid)
    assert sorted(os.listdir(tmp_path / "store")) == sorted(p.name for _, p in wanted)


@each_way
async def test_one_that_fails_stops_no_other(
    consistent: bool,
    sleepers: list["subprocess.Popen[bytes]"],
    dead_pid: int,
    tmp_path: Path,
) -> None:
    class Ended:
        pid = None

    first, second, third, *_ = sleepers
    await sa.capture_to(first, tmp_path / "there")
    (tmp_path / "file").write_bytes(b"")

    outcomes = await sa.capture_many(
        [
            (first, tmp_path / "a"),
            (dead_pid, tmp_path / "dead"),
            (second, tmp_path / "there"),
            (Ended(), tmp_path / "ended"),
            (sleepers[3], tmp_path / "file" / "below"),
            (third, tmp_path / "b"),
        ],
        consistent=consistent,
    )

    assert [type(outcome) for outcome in outcomes[:4]] == [
        sa.CaptureReport,
        sa.ProcessGoneError,
        sa.CheckpointExistsError,
        ValueError,
    ]
    assert isinstance(outcomes[4], sa.StoreError)
    assert isinstance(outcomes[5], sa.CaptureReport)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "file", "there"]
    for process in sleepers:
        check_untraced(process.pid)


async def test_one_more_than_may_run_waits(
    sleepers: list["subprocess.Popen[bytes]"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside = 0
    most: Counter[int] = Counter()
    lock = threading.Lock()

    async def watched(*arguments: Any) -> sa.CaptureReport:
        nonlocal inside
        with lock:
            inside += 1
            most[limit] = max(most[limit], inside)
            if inside == min(limit, len(sleepers)):
                full.set()
        full.wait(20)  # each on a thread of its own
        try:
            return await carry_out(*arguments)
        finally:
            with lock:
                inside -= 1

    monkeypatch.setattr("sandlock_async.many.carry_out", watched)
    monkeypatch.setattr("sandlock_async.turns.AT_ONCE", 100)
    for limit in (1, 3, 100):
        full = threading.Event()
        outcomes = await sa.capture_many(
            [(target, tmp_path / str(target.pid)) for target in sleepers],
            limit=limit,
            replace=True,
            durable=False,
        )
        assert all(isinstance(outcome, sa.CaptureReport) for outcome in outcomes)

    assert most == {1: 1, 3: 3, 100: len(sleepers)}


async def test_no_more_threads_than_needed(
    sleepers: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    names: set[str] = set()
    over = asyncio.Event()

    async def watch() -> None:
        while not over.is_set():
            names.update(thread.name for thread in threading.enumerate())
            await asyncio.sleep(0.0005)

    watcher = asyncio.ensure_future(watch())
    for consistent in (False, True):
        await sa.capture_many(
            [(target, tmp_path / str(target.pid)) for target in sleepers],
            limit=2,
            consistent=consistent,
            replace=True,
            durable=False,
        )
    over.set()
    await watcher

    ours = [name for name in names if name.startswith("sandlock-async-io")]
    assert 0 < len(ours) <= 2 * 8


@pytest.mark.parametrize(
    ("captures", "options", "match"),
    [
        ([(1, "a"), (2, "a")], {}, "two captures"),
        ([(1, "a"), (2, "b/../a")], {}, "two captures"),
        ([(1, "a"), (2, "a/b")], {}, "lies in"),
        ([(1, "a"), (0, "b")], {}, "not a pid"),
        ([(1, "a"), (None, "b")], {}, "no pid"),
        ([(1, "a"), (2, "..")], {}, "does not name"),
        ([(1, "a"), (1, "b")], {"consistent": True}, "twice"),
        ([(1, "a")], {"limit": 0}, "at least 1"),
        ([(1, "a")], {"format": "v9"}, "format"),
        ([(1, "a")], {"strategy": "guess"}, "strategy"),
        ([(1, "a")], {"memory_limit": -1}, "memory_limit"),
        ([(1, "a")], {"timeout": 0}, "timeout"),
        ([(1, "a")], {"policy": sa.Policy(version="v1", fields={})}, "policy"),
    ],
)
async def test_a_mistake_is_raised_before_anything(
    captures: list[tuple[object, str]],
    options: dict[str, Any],
    match: str,
    tmp_path: Path,
) -> None:
    # Not relative: os.getcwd() is taken for a blocking call.
    wanted = [(target, f"{tmp_path}/{place}") for target, place in captures]

    with pytest.raises(ValueError, match=match):
        await sa.capture_many(wanted, **options)

    assert os.listdir(tmp_path) == []


async def test_things_of_another_type(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="pid"):
        await sa.capture_many([("1", tmp_path / "a")])
    for limit in (True, "2", 1.5):
        with pytest.raises(TypeError, match="limit"):
            await sa.capture_many([(1, tmp_path / "a")], limit=limit)  # type: ignore[arg-type]
    assert await sa.capture_many([]) == []
    assert await sa.capture_many([], consistent=True) == []


@each_way
@pytest.mark.parametrize(
    ("strategy", "memory_limit"),
    [("direct", 0), ("direct", 256 << 20), ("fork", 256 << 20)],
    ids=["spilling", "in-memory", "fork"],
)
async def test_cancelled_twice(
    consistent: bool,
    strategy: str,
    memory_limit: int,
    spawn: Callable[..., Tracee],
    tmp_path: Path,
) -> None:
    tracees = [spawn("big.py", 2 << 20, 1) for _ in range(3)]
    store = tmp_path / "store"
    chance = random.Random(17)
    wanted = [(tracee.pid, store / str(tracee.pid)) for tracee in tracees]

    async def run() -> list[sa.CaptureReport | Exception]:
        return await sa.capture_many(
            wanted,
            limit=2,
            consistent=consistent,
            strategy=strategy,
            memory_limit=memory_limit,
            replace=True,
            durable=False,
        )

    began = time.monotonic()
    assert not [this for this in await run() if isinstance(this, Exception)]
    usual = time.monotonic() - began
    cancelled = 0

    for _ in range(20):
        task = asyncio.ensure_future(run())
        await asyncio.sleep(chance.random() * usual)
        task.cancel()
        await asyncio.sleep(chance.choice((0, 0.0005, 0.002)))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        cancelled += task.cancelled()

        for tracee in tracees:
            assert tracee.tracers() == {"0"}
            assert tracee.copies() == []
        assert sorted(os.listdir(store)) == sorted(path.name for _, path in wanted)
        assert BUDGET.used_bytes == 0
    assert cancelled > 4
    for tracee in tracees:
        tracee.check_runs_on()


@each_way
async def test_a_scope_that_is_over(
    consistent: bool, sleepers: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    with anyio.move_on_after(0.01) as scope:
        await sa.capture_many(
            [(target, tmp_path / "s" / str(target.pid)) for target in sleepers],
            consistent=consistent,
        )

    assert scope.cancelled_caught
    for process in sleepers:
        check_untraced(process.pid)
    left = os.listdir(tmp_path / "s") if (tmp_path / "s").exists() else []
    assert not [name for name in left if name.startswith(".")]


@pytest.mark.parametrize("strategy", ["direct", "fork"])
async def test_a_token_is_in_one_place(
    strategy: str, spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("token")
    place = tracee.status[FIRST]
    until(lambda: all(tracee.status[SECOND + n] for n in range(5)), "five processes")
    pids = [tracee.status[SECOND + number] for number in range(5)]
    caught: Counter[str] = Counter()

    for _ in range(50):
        outcomes = await sa.capture_many(
            [(pid, tmp_path / "store" / str(pid)) for pid in pids],
            consistent=True,
            strategy=strategy,
            replace=True,
            durable=False,
        )
        for pid, outcome in zip(pids, outcomes, strict=True):
            assert isinstance(outcome, sa.CaptureReport), outcome
            assert outcome.strategy == strategy
            async with await sa.Checkpoint.load(outcome.path) as checkpoint:
                assert checkpoint.process_state.pid == pid
        images = [tmp_path / "store" / str(pid) for pid in pids]
        caught[await place_of_token(images, place)] += 1

    assert caught["memory"]
    assert caught["pipe"]
    tracee.check_runs_on()
    for pid in pids:
        check_untraced(pid)


async def test_a_cut_beyond_the_budget(
    spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracees = [spawn("big.py", 1 << 20, 1) for _ in range(3)]

    outcomes = await sa.capture_many(
        [(tracee.pid, tmp_path / "s" / str(tracee.pid)) for tracee in tracees],
        consistent=True,
        memory_limit=0,
        durable=False,
    )

    for tracee, outcome in zip(tracees, outcomes, strict=True):
        assert isinstance(outcome, sa.CaptureReport)
        assert "did not fit" in outcome.reason
        async with await sa.Checkpoint.load(outcome.path) as checkpoint:
            assert checkpoint.process_state.pid == tracee.pid
        tracee.check_runs_on()


@pytest.mark.parametrize("memory_limit", [0, 256 << 20], ids=["spilling", "later"])
async def test_a_store_that_fails_in_a_cut(
    memory_limit: int,
    sleepers: list["subprocess.Popen[bytes]"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # GIVEN a disk that is full for the second of them
    full = tmp_path / "s1"
    refused: Counter[str] = Counter()
    write_runs, commit = Draft.write_runs, Stage.commit

    async def writing_runs(draft: Draft, *arguments: Any) -> None:
        if draft.stage.destination == full:
            refused["spilled"] += 1
            raise sa.NoSpaceError(full, needed=1, free=0)
        await write_runs(draft, *arguments)

    def committing(stage: Stage, meta: bytes, keep: Any = None) -> None:
        if stage.destination == full:
            refused["committed"] += 1
            raise OSError(errno.ENOSPC, "full")
        commit(stage, meta, keep)

    monkeypatch.setattr(Draft, "write_runs", writing_runs)
    monkeypatch.setattr(Stage, "commit", committing)

    outcomes = await sa.capture_many(
        [(sleepers[number], tmp_path / f"s{number}") for number in range(3)],
        consistent=True,
        memory_limit=memory_limit,
    )

    assert [type(outcome) for outcome in outcomes] == [
        sa.CaptureReport,
        sa.NoSpaceError,
        sa.CaptureReport,
    ]
    # Several pieces may have been on their way at once.
    assert set(refused) == {"committed" if memory_limit else "spilled"}
    assert sorted(os.listdir(tmp_path)) == ["s0", "s2"]
    for process in sleepers:
        check_untraced(process.pid)


@pytest.mark.parametrize("strategy", ["direct", "fork"])
async def test_who_ends_before_the_cut_is_left_out(
    strategy: str,
    sleepers: list["subprocess.Popen[bytes]"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # GIVEN the first and the last one killed between the look before and the freeze
    victims = (sleepers[0], sleepers[-1])

    async def taking(*arguments: Any, **options: Any) -> Scene:
        for victim in victims:
            victim.kill()
            victim.wait()
        return await take_scene(*arguments, **options)

    monkeypatch.setattr("sandlock_async.many.take_scene", taking)

    outcomes = await sa.capture_many(
        [(target, tmp_path / str(target.pid)) for target in sleepers],
        consistent=True,
        strategy=strategy,
    )

    kinds = [type(outcome) for outcome in outcomes]
    assert kinds[0] is kinds[-1] is sa.ProcessGoneError
    assert set(kinds[1:-1]) == {sa.CaptureReport}
    assert sorted(os.listdir(tmp_path)) == sorted(
        str(target.pid) for target in sleepers[1:-1]
    )
    for process in sleepers[1:-1]:
        check_untraced(process.pid)


async def test_who_is_waited_for_is_left_out(
    sleepers: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    thread = threading.Thread(target=sleepers[1].wait)
    thread.start()
    until(lambda: _is_waited_for(sleepers[1]), "a thread in wait()")
    try:
        outcomes = await sa.capture_many(
            [(target, tmp_path / str(target.pid)) for target in sleepers],
            consistent=True,
        )
    finally:
        sleepers[1].kill()
        thread.join()

    failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert failed == [outcomes[1]]
    assert isinstance(outcomes[1], sa.WaitConflictError)


def _is_waited_for(process: "subprocess.Popen[bytes]") -> bool:
    if process._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
        process._waitpid_lock.release()  # type: ignore[attr-defined]
        return False
    return True


@each_way
async def test_all_of_them_gone(
    consistent: bool, dead_pid: int, tmp_path: Path
) -> None:
    outcomes = await sa.capture_many(
        [(dead_pid, tmp_path / "new" / "a")], consistent=consistent
    )

    assert [type(outcome) for outcome in outcomes] == [sa.ProcessGoneError]
    assert os.listdir(tmp_path) == []


async def test_a_freeze_that_fails_has_failed_for_all(
    sleepers: list["subprocess.Popen[bytes]"],
    tmp_path: Path,
) -> None:
    outcomes = await sa.capture_many(
        [(target, tmp_path / str(target.pid)) for target in sleepers],
        consistent=True,
        timeout=1e-6,
    )

    assert {type(outcome) for outcome in outcomes} == {sa.FreezeTimeoutError}
    assert os.listdir(tmp_path) == []
    for process in sleepers:
        check_untraced(process.pid)


async def test_twenty_sandboxes(tmp_path: Path) -> None:
    sandlock = pytest.importorskip("sandlock")
    boxes = [sandlock.Sandbox(fs_readable=READABLE) for _ in range(20)]
    started: list[Any] = []
    try:
        for box in boxes:
            try:
                box.spawn(["/bin/sleep", "60"])
            except Exception as error:  # noqa: BLE001
                missing(f"a kernel with Landlock: {error}")
            started.append(box)
        for box in boxes:
            comm = Path(f"/proc/{box.pid}/comm")
            until(lambda comm=comm: comm.read_text() == "sleep\n", "the program")

        for consistent, strategy in ((False, "auto"), (True, "direct"), (True, "fork")):
            outcomes = await sa.capture_many(
                [(box, tmp_path / f"box{number}") for number, box in enumerate(boxes)],
                consistent=consistent,
                strategy=strategy,
                replace=True,
                durable=False,
            )
            for box, outcome in zip(boxes, outcomes, strict=True):
                assert isinstance(outcome, sa.CaptureReport), outcome
                assert outcome.pid == box.pid
                async with await sa.Checkpoint.load(outcome.path) as checkpoint:
                    policy = sa.decode_policy("v1", checkpoint.policy)
                    readable = set(policy.fields["fs_readable"])  # type: ignore[call-overload]
                    assert readable >= set(READABLE)
                check_untraced(box.pid)
    finally:
        for box in started:
            if box.pid is not None:
                box.kill()
                box.wait()

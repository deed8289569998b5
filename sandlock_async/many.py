"""Many processes at once: each for itself, or all of them at one instant."""

import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from sandlock_async.arguments import Options, Order
from sandlock_async.budget import DEFAULT_LIMIT
from sandlock_async.capture import carry_out
from sandlock_async.checkpoint import StrPath, absolute
from sandlock_async.completion import task_group
from sandlock_async.delivery import Delivered, Delivery, delivering
from sandlock_async.failure import exhaustion_explained
from sandlock_async.image.policy import Policy
from sandlock_async.plan import Plan
from sandlock_async.report import CaptureReport
from sandlock_async.scene import Scene, Sight
from sandlock_async.sights import sighted
from sandlock_async.snapshot.direct import Run
from sandlock_async.strategy import Strategy
from sandlock_async.target import has_no_pid, resolve_pid
from sandlock_async.tracing import close_scene, take_scene
from sandlock_async.workers import THREADS, Workers

AT_ONCE = 4
"""Captures at once, unless the caller says otherwise: more of them only keep each other
waiting for the GIL, and their targets frozen."""

Outcome = CaptureReport | Exception


async def capture_many(
    captures: Iterable[tuple[object, StrPath]],
    *,
    limit: int | None = None,
    consistent: bool = False,
    policy: bytes | Policy | None = None,
    format: str = "v1",
    strategy: str = "auto",
    exclude_dontdump: bool = False,
    timeout: float = 10.0,
    memory_limit: int = DEFAULT_LIMIT,
    replace: bool = False,
    durable: bool = True,
) -> list[CaptureReport | Exception]:
    """Write pictures of many running processes, each to a directory of its own.

    One that fails does not stop the others: its exception stands in its place. If this
    is cancelled all are, and all processes run when it returns.

    :param captures: targets and directories, as :func:`capture_to` takes them
    :param limit: captures, or with *consistent* directories written, at once; by
        default 4. Small processes take turns besides, two at a time
    :param consistent: freeze all processes before the first is read, and let them run
        again after the last has been: what they send to each other is in one of the
        images. A process that turns out before to be gone, or not to be traced, and
        one that ends before it stands still, is left out, and the cut of the others
        stands. If the freeze fails, *timeout* for instance, it has failed for all. A
        disk that is full is the error only of what was to be written there.
    :param policy: for all; by default that of the sandboxes among them, or an empty one
    :param format: the other parameters are those of :func:`capture_to`, for each;
        with *consistent*, *timeout* is for all together
    :return: what came of each, in their order
    :raises ValueError: for a wrong argument, or two directories of which one is, or
        lies in, the other; before anything is touched
    :raises TypeError: for one of another type
    """
    options = Options(
        policy=policy,
        format=format,
        strategy=strategy,
        exclude_dontdump=exclude_dontdump,
        timeout=timeout,
        memory_limit=memory_limit,
        replace=replace,
        durable=durable,
    )
    at_once = _checked_limit(limit)
    wanted = [_ordered(target, directory, options) for target, directory in captures]
    orders = [order for order in wanted if isinstance(order, Order)]
    _check_apart([order.destination for order in orders])
    if consistent:
        _check_distinct([order.pid for order in orders])
    make = _at_one_instant if consistent else _each_for_itself
    made = iter(
        await make(orders, min(at_once, len(orders)), options) if orders else ()
    )
    return [next(made) if isinstance(order, Order) else order for order in wanted]


async def _each_for_itself(
    orders: Sequence[Order], at_once: int, options: Options
) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}

    async def work(rest: Iterator[tuple[int, Order]], shared: Workers) -> None:
        for number, order in rest:
            try:
                with exhaustion_explained(order.pid):
                    async with shared.lent() as workers:
                        story = carry_out(order, workers)
                        outcomes[number] = await workers.alone(story)
            except Exception as error:  # noqa: BLE001 - the caller gets it
                outcomes[number] = error

    async with Workers(at_once * THREADS) as shared, task_group() as tasks:
        rest = iter(enumerate(orders))
        for _ in range(at_once):
            tasks.start_soon(work, rest, shared)
    return [outcomes[number] for number in range(len(orders))]


async def _at_one_instant(
    orders: Sequence[Order], at_once: int, options: Options
) -> list[Outcome]:
    left: dict[int, Exception] = {}
    reports: dict[int, CaptureReport] = {}
    async with Workers(at_once * THREADS) as workers, AsyncExitStack() as opened:
        deliveries: dict[int, Delivery] = {}
        for order in orders:
            with _kept(left, order.pid):
                deliveries[order.pid] = await opened.enter_async_context(
                    delivering(order, workers)
                )
        sights = await opened.enter_async_context(
            sighted(
                {this.pid: this.target for this in orders if this.pid in deliveries},
                workers,
                options.memory_limit,
                left=left,
                exclude_dontdump=options.exclude_dontdump,
                strategy=Strategy(options.strategy),
            )
        )
        for sight in sights:
            pid = sight.target.pid
            with _kept(left, pid):
                await deliveries[pid].expect([sight.survey])
        sights = [sight for sight in sights if sight.target.pid not in left]
        if sights:
            try:
                reports = await _cut(
                    sights, deliveries, left, workers, at_once, options
                )
            except Exception as error:  # noqa: BLE001 - the caller gets it
                for sight in sights:
                    left.setdefault(sight.target.pid, error)
    return [left.get(order.pid) or reports[order.pid] for order in orders]


async def _cut(
    sights: Sequence[Sight],
    deliveries: dict[int, Delivery],
    left: dict[int, Exception],
    workers: Workers,
    at_once: int,
    options: Options,
) -> dict[int, CaptureReport]:
    """Freeze all that are in sight, and write those that are not *left* on the way."""

    async def spill(who: int, plan: Plan, index: int, runs: list[Run]) -> None:
        if who not in left:
            with _kept(left, who):
                await deliveries[who].spill(who, plan, index, runs)

    scene = await take_scene(
        sights,
        left=left,
        timeout=options.timeout,
        workers=workers,
        buffers=deliveries[sights[0].target.pid].draft.buffers,
        spill=spill,
    )
    scenes = {this.target.pid: scene.only(this) for this in scene.snapshots}
    delivered: dict[int, Delivered] = {}

    async def write(rest: Iterator[tuple[int, Scene]]) -> None:
        for pid, alone in rest:
            if pid not in left:
                with _kept(left, pid):
                    delivered[pid] = await deliveries[pid].write(alone)

    try:
        async with task_group() as tasks:
            rest = iter(scenes.items())
            for _ in range(at_once):
                tasks.start_soon(write, rest)
    finally:
        unreaped = await close_scene(scene, workers)
    return {
        pid: deliveries[pid].report(scenes[pid], this, unreaped)
        for pid, this in delivered.items()
    }


@contextmanager
def _kept(left: dict[int, Exception], pid: int) -> Generator[None]:
    """Keep the error of one process, and go on."""
    try:
        with exhaustion_explained(pid):
            yield
    except Exception as error:  # noqa: BLE001 - the caller gets it
        left[pid] = error


def _checked_limit(limit: object) -> int:
    if limit is None:
        return AT_ONCE
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit must be a number of captures, not {limit!r}")
    if limit < 1:
        raise ValueError(f"limit must be at least 1, but is {limit}")
    return limit


def _ordered(
    target: object, directory: StrPath, options: Options
) -> Order | ValueError:
    """Return what is wanted of a target, or why it cannot be: it may just have ended."""
    destination = absolute(directory)
    try:
        pid = resolve_pid(target)
    except ValueError as error:
        if has_no_pid(target):
            return error
        raise
    return Order(target=target, pid=pid, destination=destination, options=options)


def _check_apart(destinations: Sequence[Path]) -> None:
    places = [Path(os.path.normpath(destination)) for destination in destinations]
    seen = set(places)
    if len(seen) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise ValueError(f"{twice} is given for two captures")
    for place in places:
        for parent in place.parents:
            if parent in seen:
                raise ValueError(f"{place} lies in {parent}, which is given, too")


def _check_distinct(pids: Sequence[int]) -> None:
    for pid, count in Counter(pids).items():
        if count > 1:
            raise ValueError(f"process {pid} is given twice")

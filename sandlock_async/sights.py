"""The looks before a freeze: who is captured, and the memory that the copies take."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from sandlock_async.budget import BUDGET
from sandlock_async.company import NEWCOMER_GROWTH_BYTES
from sandlock_async.descendants import find_descendants
from sandlock_async.errors import CaptureError, ProcessGoneError
from sandlock_async.failure import explained, translate
from sandlock_async.scene import Sight
from sandlock_async.snapshot.survey import Survey, survey
from sandlock_async.strategy import Choice, Strategy, choose
from sandlock_async.target import Target, open_target
from sandlock_async.workers import Workers

_GROWTH_BYTES = 8 << 20
"""Room for what the target touches between the look before and the freeze."""

_ALONE_BYTES = 8 << 20
"""What one thread copies and writes in a few milliseconds."""

_HUGE_PAGE_BYTES = 2 << 20
"""An arena of whole ones is faulted in in a seventh of the time."""


@asynccontextmanager
async def sighted(
    targets: Mapping[int, object],
    workers: Workers,
    memory_limit: int,
    *,
    tree: bool = False,
    left: dict[int, Exception] | None = None,
    exclude_dontdump: bool = False,
    strategy: Strategy = Strategy.DIRECT,
) -> AsyncGenerator[list[Sight]]:
    """Pin processes, look at their memory, and wait for room for a copy of it.

    :param targets: one, or several, by pid
    :param tree: the descendants of the first too, after it
    :param left: where the errors go of targets that the others go on without, by pid
    :param strategy: how their memory is to be read
    """
    async with AsyncExitStack() as opened:
        seen: list[tuple[Target, Survey]] = []

        def look(pid: int, who: object) -> Target:
            with explained(pid, "prepare"):
                return open_target(who)

        async def add(pid: int, who: object) -> None:
            found = await workers.acquire(Target.close, look, pid, who)
            opened.callback(found.close)
            with explained(pid, "prepare"):
                seen.append(
                    (
                        found,
                        await workers.run(
                            survey, found, exclude_dontdump=exclude_dontdump
                        ),
                    )
                )

        for pid, target in targets.items():
            try:
                await add(pid, target)
            except (CaptureError, ValueError) as error:
                if left is None:
                    raise
                left[pid] = error
        if tree:
            for pid in await workers.run(_descendants, seen[0][0].pid):
                try:
                    await add(pid, pid)
                except ProcessGoneError:
                    continue  # the freeze will tell what has become of it
        choices = [choice_for(survey, strategy, memory_limit) for _, survey in seen]
        needed = [
            _needed(survey, choice)
            for (_, survey), choice in zip(seen, choices, strict=True)
        ]
        growth = [_growth(size, NEWCOMER_GROWTH_BYTES) for size in needed]
        if left is None:
            growth[0] = _growth(needed[0], _GROWTH_BYTES)
        if sum(needed) > _ALONE_BYTES or any(
            choice.strategy is Strategy.FORK for choice in choices
        ):
            await workers.to_loop()
        async with BUDGET.reserved(
            sum(needed) + sum(growth), memory_limit, workers.to_loop
        ) as room:
            yield [
                Sight(target=found, survey=survey_of_it, room=share, choice=choice)
                for (found, survey_of_it), choice, share in zip(
                    seen, choices, _shares(needed, growth, room), strict=True
                )
            ]


def choice_for(seen: Survey, strategy: Strategy, memory_limit: int) -> Choice:
    """Return how the memory of a process that has been looked at is to be read."""
    return choose(
        strategy,
        expected_bytes=seen.expected_bytes,
        uncopied_bytes=seen.uncopied_bytes,
        room=memory_limit,
        headroom=seen.headroom,
        obstacle=seen.means.obstacle,
    )


def _needed(seen: Survey, choice: Choice) -> int:
    forks = choice.strategy is Strategy.FORK
    return seen.uncopied_bytes if forks else seen.expected_bytes


def _growth(size: int, least: int) -> int:
    whole = size + size // 8 + least
    return -(-whole // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES - size


def _shares(needed: list[int], growth: list[int], room: int) -> list[int]:
    """Share *room* out: first to what each needs now, then to what it may grow by."""
    spare = max(room - sum(needed), 0)
    shares: list[int] = []
    for size, extra in zip(needed, growth, strict=True):
        now = min(size, room)
        room -= now
        shares.append(now + extra * spare // sum(growth))
    return shares


def _descendants(pid: int) -> list[int]:
    try:
        return find_descendants(pid)
    except OSError as error:
        raise translate(error, pid, "prepare") from error

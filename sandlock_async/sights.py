"""The looks before a freeze: who is captured, and the memory that the copies take."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from sandlock_async.budget import BUDGET
from sandlock_async.company import NEWCOMER_GROWTH_BYTES
from sandlock_async.descendants import find_descendants
from sandlock_async.errors import ProcessGoneError
from sandlock_async.failure import exhaustion_explained, translate
from sandlock_async.scene import Sight
from sandlock_async.snapshot.survey import Survey, survey
from sandlock_async.strategy import Choice, Strategy, choose
from sandlock_async.target import Target, open_target, resolve_pid
from sandlock_async.workers import Workers

_GROWTH_BYTES = 8 << 20
"""Room for what the target touches between the look before and the freeze."""


@asynccontextmanager
async def sighted(
    target: object,
    workers: Workers,
    memory_limit: int,
    *,
    tree: bool = False,
    exclude_dontdump: bool = False,
    strategy: Strategy = Strategy.DIRECT,
) -> AsyncGenerator[list[Sight]]:
    """Pin the target, look at its memory, and wait for room for a copy of it.

    :param tree: its descendants too, after it
    :param strategy: how their memory is to be read
    """
    pid = resolve_pid(target)
    async with AsyncExitStack() as opened:
        seen: list[tuple[Target, Survey]] = []

        def look(who: object) -> Target:
            with exhaustion_explained(pid):
                return open_target(who)

        async def add(who: object) -> None:
            found = await workers.acquire(Target.close, look, who)
            opened.callback(found.close)
            with exhaustion_explained(pid):
                seen.append(
                    (
                        found,
                        await workers.run(
                            survey, found, exclude_dontdump=exclude_dontdump
                        ),
                    )
                )

        await add(target)
        for descendant in await workers.run(_descendants, pid) if tree else ():
            try:
                await add(descendant)
            except ProcessGoneError:
                continue  # the freeze will tell what has become of it
        choices = [_choose(strategy, survey, memory_limit) for _, survey in seen]
        wanted = [
            _wanted(number, survey, choice)
            for number, ((_, survey), choice) in enumerate(
                zip(seen, choices, strict=True)
            )
        ]
        async with BUDGET.reserved(sum(wanted), memory_limit) as room:
            sights: list[Sight] = []
            for (found, survey_of_it), choice, size in zip(
                seen, choices, wanted, strict=True
            ):
                share = min(size, room)
                room -= share
                sights.append(
                    Sight(target=found, survey=survey_of_it, room=share, choice=choice)
                )
            yield sights


def _choose(strategy: Strategy, seen: Survey, memory_limit: int) -> Choice:
    return choose(
        strategy,
        expected_bytes=seen.expected_bytes,
        uncopied_bytes=seen.uncopied_bytes,
        room=memory_limit,
        headroom=seen.headroom,
        obstacle=seen.means.obstacle,
    )


def _wanted(number: int, seen: Survey, choice: Choice) -> int:
    forks = choice.strategy is Strategy.FORK
    size = seen.uncopied_bytes if forks else seen.expected_bytes
    growth = _GROWTH_BYTES if number == 0 else NEWCOMER_GROWTH_BYTES
    return size + size // 8 + growth


def _descendants(pid: int) -> list[int]:
    try:
        return find_descendants(pid)
    except OSError as error:
        raise translate(error, pid, "prepare") from error

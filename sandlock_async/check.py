"""What would be in the way of a capture, found without making one."""

import errno
from pathlib import Path

from sandlock_async.arguments import Options
from sandlock_async.budget import DEFAULT_LIMIT
from sandlock_async.checkpoint import StrPath, absolute
from sandlock_async.failure import cure_of
from sandlock_async.features import try_features
from sandlock_async.image import layout
from sandlock_async.outlook import Outlook, look_ahead
from sandlock_async.preflight import Check, Preflight, mib
from sandlock_async.store.place import Place
from sandlock_async.store.refusals import translated
from sandlock_async.store.space import Room, require_space
from sandlock_async.target import resolve_pid
from sandlock_async.trial import tried
from sandlock_async.waiters import LoopFacts
from sandlock_async.workers import Workers

_FOLDERS = 2 + len(layout.DIRECTORIES)
"""What a capture has made before it asks for room."""


async def check(
    target: object = None,
    directory: StrPath | None = None,
    *,
    strategy: str = "auto",
    tree: bool = False,
    exclude_dontdump: bool = False,
    memory_limit: int = DEFAULT_LIMIT,
    replace: bool = False,
) -> Preflight:
    """Tell what this kernel, this user and a process allow, before a capture.

    What the kernel can do is tried, on a short-lived child of our own. At the process
    and the directory it is only looked: nobody is attached to, and nothing is made.

    :param target: a pid, or anything with a ``pid``; None to ask for the kernel only
    :param directory: where its checkpoint is to be; None to leave that out
    :param strategy: this and the others are what :func:`capture_to` would be given
    :return: what was found; each "no" with its reason, and with what helps
    :raises ValueError: if *target* is not a process, or for another wrong argument
    """
    options = Options(
        policy=None,
        format="v1",
        strategy=strategy,
        tree=tree,
        exclude_dontdump=exclude_dontdump,
        timeout=1.0,
        memory_limit=memory_limit,
        replace=replace,
        durable=False,
    )
    if target is not None:
        resolve_pid(target)
    destination = None if directory is None else absolute(directory)
    async with Workers() as workers:
        loop = LoopFacts.of(workers.loop)

        def work() -> list[Check]:
            checks = try_features()
            ahead = Outlook()
            if target is not None:
                ahead = look_ahead(target, options, loop)
                checks += ahead.checks
            if destination is not None:
                checks += look_at_place(
                    destination,
                    ahead.image_bytes,
                    replace=replace,
                    inodes=ahead.inodes + _FOLDERS,
                )
            return checks

        try:
            return Preflight(checks=tuple(await workers.run(work)))
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            reason = error.strerror or str(error)
            threads = Check(
                name="threads", ok=False, reason=reason, help=cure_of(error)
            )
            return Preflight(checks=(threads,))


def look_at_place(
    destination: Path, needed: int | None, *, replace: bool, inodes: int = 0
) -> list[Check]:
    """Look at where a checkpoint is to be, and whether it has room.

    :param needed: bytes that it takes, if that is known
    :param inodes: in how many files and folders
    """
    rooms: list[Room] = []

    def look() -> str:
        with translated(destination):
            rooms.append(Place(destination, replace=replace).look())
        return "a checkpoint can be put there, as far as can be seen"

    def space() -> str:
        (room,) = rooms
        free = "the file system does not tell what is free"
        if room.bytes is not None:
            free = f"{mib(room.bytes)} are free"
        if needed is None:
            return free
        require_space(destination, needed=needed, room=room, inodes=inodes)
        return f"{free}, at most about {mib(needed)} are needed"

    place = tried("directory", look)
    return [place, tried("disk_space", space)] if place.ok else [place]

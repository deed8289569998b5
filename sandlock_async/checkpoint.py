"""A picture of a process that can be saved, loaded and looked into."""

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from sandlock_async.arguments import check_content
from sandlock_async.errors import ConversionWarning
from sandlock_async.image import find_format
from sandlock_async.image.age import as_identities, as_recipients
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.image.reader import read_image
from sandlock_async.image.unreadable import reading
from sandlock_async.image.verifier import verify_directory, verify_metadata
from sandlock_async.image.writer import lay_out
from sandlock_async.model import Picture
from sandlock_async.store.draft import drafted
from sandlock_async.store.listing import find_checkpoints
from sandlock_async.store.refusals import translated
from sandlock_async.workers import Workers

StrPath = str | PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint(Picture):
    """A process at one instant.

    From :func:`sandlock_async.capture` it holds the copied memory, from
    :meth:`load` an open directory, until :meth:`aclose` or the end of its
    ``async with``. Two are equal if everything in them is, memory included.

    :ivar format: the layout it has been loaded from, and whose policy it holds
    """

    format: str = "v1"
    _release: Callable[[], None] = field(default=lambda: None, repr=False)
    _origin: ImageDirectory | None = field(default=None, repr=False)

    async def save(
        self,
        path: StrPath,
        *,
        format: str = "v1",
        replace: bool = False,
        durable: bool = True,
        recipients: Iterable[object] | None = (),
    ) -> None:
        """Write the checkpoint to the directory *path*, whole or not at all.

        A checkpoint without a name gets that of the directory.

        :param format: the layout: ``"v1"`` is sandlock 0.8.2's, ``"v2"`` 0.8.6's,
            ``"v3"`` 0.9.0's. The policy is brought to that version; what it cannot
            say is told by a :exc:`ConversionWarning`.
        :param replace: swap it with a checkpoint that is there, in one step
        :param durable: fsync everything, so that it survives a power cut
        :param recipients: encrypt every file for these, as :func:`capture_to` does
        :raises CheckpointExistsError: if something is there, without *replace*
        :raises NoSpaceError: if the disk is full
        :raises StoreError: if it cannot be written
        :raises ImageCorruptError: if it is loaded from an image that is damaged
        :raises UnusableKeyError: if a recipient is none, or pyrage is not installed
        :raises TypeError: if the name is no string, or the policy or state no bytes
        """
        sealed_for = as_recipients(recipients)
        check_content(name=self.name, policy=self.policy, app_state=self.app_state)
        destination = absolute(path)
        layout = find_format(format)
        with translated(destination):
            async with Workers() as workers:
                if self._origin is not None:
                    await workers.run(verify_metadata, self._origin)
                async with drafted(
                    destination,
                    workers,
                    replace=replace,
                    durable=durable,
                    recipients=sealed_for,
                ) as draft:
                    named = self.named(destination.name)
                    laid_out = await workers.run(lay_out, named, layout)
                    await draft.write_memory(laid_out.files)
                    await draft.commit(laid_out.files)
        for warning in laid_out.warnings:
            warnings.warn(warning, ConversionWarning, stacklevel=2)

    @classmethod
    async def load(
        cls,
        path: StrPath,
        *,
        verify: bool = False,
        identities: Iterable[object] = (),
    ) -> "Checkpoint":
        """Open the checkpoint in the directory *path*.

        Names, sizes and structure are checked; memory is read when it is asked for.

        :param verify: compare every file with its checksum, too, if the image has a
            manifest; all that is wrong is told by :func:`sandlock_async.verify`
        :param identities: what opens it if it is encrypted (extra ``crypt``): each the
            path (:class:`~pathlib.Path`) of a key file of age or SSH, its content, or an
            identity of pyrage
        :raises CheckpointNotFoundError: if there is no such directory
        :raises ImageCorruptError: naming the file that is missing or malformed
        :raises ImageVersionError: if it is of a version unknown here
        :raises UnusableKeyError: if an identity is none, or cannot be read
        :raises ImageError: if it cannot be read, for want of rights, or of the identity
            of a recipient, for instance
        """
        place = absolute(path)
        with reading(place):
            async with Workers() as workers:
                keys = await workers.run(as_identities, identities)
                read = await workers.acquire(
                    lambda read: read.directory.close(), read_image, place, keys
                )
                if verify:
                    try:
                        await workers.run(verify_directory, read.directory)
                    except BaseException:
                        await workers.run(read.directory.close)
                        raise
        return cls.of(
            read.picture, read.directory.close, read.format.name, read.directory
        )

    @classmethod
    def of(
        cls,
        picture: Picture,
        release: Callable[[], None],
        format: str,
        origin: ImageDirectory | None = None,
    ) -> "Checkpoint":
        """Return *picture* as a checkpoint; *release* lets its memory go.

        :param origin: the image that it has been read from
        """
        return cls(
            name=picture.name,
            policy=picture.policy,
            policy_version=picture.policy_version,
            process_state=picture.process_state,
            fd_table=picture.fd_table,
            cow_snapshot=picture.cow_snapshot,
            app_state=picture.app_state,
            format=format,
            _release=release,
            _origin=origin,
        )

    async def aclose(self) -> None:
        """Let the memory, or the directory, go; closing twice does nothing."""
        async with Workers() as workers:
            try:
                await workers.run(self._release)
            except BlockingIOError:  # no thread is to be had
                self._release()  # all the same

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Picture):
            return NotImplemented
        return _parts(self) == _parts(other)

    __hash__: ClassVar[None]  # type: ignore[assignment]


async def list_checkpoints(store: StrPath) -> list[str]:
    """Return the names of the checkpoints in the folder *store*, sorted.

    :raises CheckpointNotFoundError: if there is no such folder
    :raises ImageError: if it cannot be read
    """
    place = absolute(store)
    with reading(place):
        async with Workers() as workers:
            return await workers.run(find_checkpoints, place)


def absolute(path: StrPath) -> Path:
    """Return *path* made absolute now: a later chdir must not move it."""
    found = Path(path).absolute()
    if not found.name or found.name == ".." or not _can_be(found):
        raise ValueError(f"{str(path)!r} does not name a checkpoint directory")
    return found


def _can_be(path: Path) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # it has come from no file system
        return False


def _parts(picture: Picture) -> tuple[object, ...]:
    return (
        picture.name,
        picture.policy,
        picture.process_state,
        picture.fd_table,
        picture.cow_snapshot,
        picture.app_state,
    )

"""An image in one layout to an image in another."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sandlock_async.checkpoint import StrPath, absolute
from sandlock_async.errors import StoreError
from sandlock_async.image import find_format, layout
from sandlock_async.image.age import as_identities, as_recipients
from sandlock_async.image.file_segment import FileSegment
from sandlock_async.image.files import Format, ImageFiles
from sandlock_async.image.reader import Read, read_family
from sandlock_async.image.verifier import verify_metadata
from sandlock_async.image.writer import LaidOut, lay_out_tree
from sandlock_async.model import MemorySegment
from sandlock_async.store.draft import drafted
from sandlock_async.store.refusals import translated
from sandlock_async.workers import Workers

_IN_THE_CLEAR = "the source is encrypted, and this is not: all of it is in the clear"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """The outcome of :func:`convert`.

    :ivar path: the new checkpoint
    :ivar format: its layout
    :ivar linked_bytes: memory that both images share on the disk
    :ivar copied_bytes: bytes that were written
    :ivar warnings: what the new layout cannot say, and if the new one is not encrypted
        though the old one is
    """

    path: Path
    format: str
    linked_bytes: int
    copied_bytes: int
    warnings: tuple[str, ...]


async def convert(
    source: StrPath,
    destination: StrPath,
    *,
    format: str,
    replace: bool = False,
    durable: bool = True,
    identities: Iterable[object] = (),
    recipients: Iterable[object] | None = (),
) -> ConversionReport:
    """Write the checkpoint *source* to *destination* in another layout.

    Memory files are hard-linked where they can be. In its own layout, the files of
    the base layout stay byte for byte.

    :param format: the layout: ``v1``, ``v2`` or ``v3``
    :param replace: swap it with a checkpoint that is there, in one step
    :param durable: fsync everything, so that it survives a power cut
    :param identities: what opens *source* if it is encrypted
    :param recipients: encrypt every file for these, as :func:`capture_to` does
    :raises UnusableKeyError: if a key is none, or pyrage is not installed
    :raises ImageError: if *source* is no whole image
    :raises StoreError: if *destination* cannot be written
    """
    target, place = find_format(format), absolute(destination)
    sealed_for = as_recipients(recipients)
    with translated(place):
        async with Workers() as workers:
            await workers.run(_check_apart, absolute(source), place)
            keys = await workers.run(as_identities, identities)
            family = await workers.acquire(_close, read_family, absolute(source), keys)
            try:
                is_opened = family[0].directory.is_encrypted
                await workers.run(verify_metadata, family[0].directory)
                laid_out = await workers.run(_lay_out, family, target)
                async with drafted(
                    place,
                    workers,
                    replace=replace,
                    durable=durable,
                    recipients=sealed_for,
                ) as draft:
                    for child in family[1:]:
                        await draft.add_child(child.picture.process_state.pid)
                    linked_bytes, left = await draft.share(laid_out.files)
                    await draft.write_memory(left)
                    copied_bytes = await draft.commit(left)
            finally:
                await workers.run(_close, family)
    return ConversionReport(
        path=place,
        format=target.name,
        linked_bytes=linked_bytes,
        copied_bytes=copied_bytes,
        warnings=(
            *laid_out.warnings,
            *_lost(family[0], target),
            *([_IN_THE_CLEAR] if is_opened and sealed_for is None else []),
        ),
    )


def _check_apart(source: Path, destination: Path) -> None:
    for parent in destination.parents:
        if _is_same(parent, source):
            raise StoreError(
                f"{destination} lies in the checkpoint that is to be converted",
                path=destination,
                help="choose a directory beside it",
            )


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # it is not there, or cannot be: told when it is opened
        return False


def _close(family: list[Read]) -> None:
    for read in family:
        read.directory.close()


def _lay_out(family: list[Read], target: Format) -> LaidOut:
    pictures = [read.picture for read in family]
    if any(read.format is not target for read in family):
        return lay_out_tree(pictures[0], pictures[1:], target)
    # As they are, not as we would write and name them.
    small: dict[str, bytes] = {}
    segments: list[tuple[str, MemorySegment]] = []
    for number, read in enumerate(family):
        pid = read.picture.process_state.pid if number else None
        for name in reversed(layout.FILES):
            content = _content_of(read, name)
            if content is not None:
                small[_named(pid, name)] = content
        segments += [
            (_named(pid, segment.data.name), segment)
            for segment in read.picture.process_state.all_segments()
            if isinstance(segment.data, FileSegment)
        ]
    return LaidOut(
        name=pictures[0].name,
        files=ImageFiles(small=small, segments=tuple(segments)),
        warnings=(),
        skipped=(),
    )


def _content_of(read: Read, name: str) -> bytes | None:
    """Return what is in a file; the largest two are in memory already."""
    if name == layout.POLICY:
        return read.picture.policy
    if name == layout.APP_STATE:
        return read.picture.app_state
    return read.directory.read_optional(name)


def _named(pid: int | None, name: str) -> str:
    return name if pid is None else layout.child_name(pid, name)


def _lost(read: Read, target: Format) -> list[str]:
    state = read.picture.process_state
    held = {segment.start for segment in state.all_segments()}
    partial = all(this.start in held for this in state.memory_maps)
    if partial and target.version != layout.V1 and target is not read.format:
        return [
            "the image lists only the mappings it holds the bytes of: sandlock loads "
            "it, but can never restore it"
        ]
    return []

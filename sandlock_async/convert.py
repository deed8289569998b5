"""An image in one layout to an image in another."""

from dataclasses import dataclass, replace
from pathlib import Path

from sandlock_async.checkpoint import StrPath, absolute
from sandlock_async.image import find_format, layout
from sandlock_async.image.files import Format
from sandlock_async.image.reader import Read, read_family
from sandlock_async.image.writer import LaidOut, lay_out_tree
from sandlock_async.store.draft import drafted
from sandlock_async.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """The outcome of :func:`convert`.

    :ivar path: the new checkpoint
    :ivar format: its layout
    :ivar linked_bytes: memory that both images share on the disk
    :ivar copied_bytes: bytes that were written
    :ivar warnings: what the new layout cannot say
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
) -> ConversionReport:
    """Write the checkpoint *source* to *destination* in another layout.

    Memory files are hard-linked where they can be. In its own layout, the files of
    the base layout stay byte for byte.

    :param format: the layout: ``v1``, ``v2`` or ``v3``
    :param replace: swap it with a checkpoint that is there, in one step
    :param durable: fsync everything, so that it survives a power cut
    :raises ImageError: if *source* is no whole image
    :raises StoreError: if *destination* cannot be written
    """
    target, place = find_format(format), absolute(destination)
    async with Workers() as workers:
        family = await workers.acquire(_close, read_family, absolute(source))
        try:
            laid_out = await workers.run(_lay_out, family, target)
            async with drafted(
                place, workers, replace=replace, durable=durable
            ) as draft:
                for child in family[1:]:
                    await draft.add_child(child.picture.process_state.pid)
                linked_bytes, left = await draft.share(laid_out.files)
                copied_bytes = await draft.commit(left)
        finally:
            await workers.run(_close, family)
    return ConversionReport(
        path=place,
        format=target.name,
        linked_bytes=linked_bytes,
        copied_bytes=copied_bytes,
        warnings=(*laid_out.warnings, *_lost(family[0], target)),
    )


def _close(family: list[Read]) -> None:
    for read in family:
        read.directory.close()


def _lay_out(family: list[Read], target: Format) -> LaidOut:
    pictures = [read.picture for read in family]
    laid_out = lay_out_tree(pictures[0], pictures[1:], target)
    if family[0].format is not target:
        return laid_out
    # As they are, not as we would write them.
    directory = family[0].directory
    small = dict(laid_out.files.small)
    for name in small:
        content = directory.read_optional(name)
        if content is not None:
            small[name] = content
    return replace(laid_out, files=replace(laid_out.files, small=small), warnings=())


def _lost(read: Read, target: Format) -> list[str]:
    state = read.picture.process_state
    partial = read.format.version == layout.V1 and not state.vm_areas
    if partial and target is not read.format:
        return [
            "the image lists only the mappings it holds the bytes of: sandlock loads "
            "it, but can never restore it"
        ]
    return []

"""Whether an image is whole, and still what has been written."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sandlock_async.checkpoint import StrPath, absolute
from sandlock_async.completion import task_group
from sandlock_async.errors import ImageError
from sandlock_async.image.age import Identities, as_identities
from sandlock_async.image.directory import READ_TRIES, ImageDirectory
from sandlock_async.image.manifest import Entry
from sandlock_async.image.unreadable import reading
from sandlock_async.image.verifier import (
    Finding,
    Inventory,
    check_structure,
    check_sum,
    take_inventory,
)
from sandlock_async.workers import THREADS, Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The outcome of :func:`verify`.

    :ivar path: the checkpoint
    :ivar files: how many there are
    :ivar bytes: their length together, holes included
    :ivar findings: what is wrong
    :ivar has_checksums: whether there are any to compare with; else only the structure
        has been checked
    """

    path: Path
    files: int
    bytes: int
    has_checksums: bool
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


async def verify(path: StrPath, *, identities: Iterable[object] = ()) -> Verification:
    """Check the checkpoint at *path*: structure, sizes, and every checksum.

    Finds every file that is damaged, missing, or of no image of ours, and its
    descendants' too. An image without a manifest, such as sandlock writes, can only be
    checked for its structure.

    :param identities: what opens it if it is encrypted, as :meth:`Checkpoint.load`
        takes them
    :raises CheckpointNotFoundError: if there is no such directory
    :raises UnusableKeyError: if an identity is none, or cannot be read
    :raises ImageError: if it cannot be opened, by these identities for instance, or
        changes all the time
    """
    place = absolute(path)
    with reading(place):
        async with Workers() as workers:
            keys = await workers.run(as_identities, identities)
            for _ in range(READ_TRIES):
                directory = await workers.acquire(
                    ImageDirectory.close, ImageDirectory, place, keys
                )
                try:
                    found = await _verify(directory, keys, workers)
                    if await workers.run(directory.is_current):
                        return found
                finally:
                    await workers.run(directory.close)
    raise ImageError(f"{place}: changes all the time", path=place)


async def _verify(
    directory: ImageDirectory, identities: Identities | None, workers: Workers
) -> Verification:
    found = await workers.run(take_inventory, directory)
    findings = found.findings + await _check_sums(directory, found, workers)
    if not findings or not found.has_manifest:
        # A file that is damaged contradicts others, which are not.
        findings += await workers.run(check_structure, directory.path, identities)
    unique = {finding.file: finding for finding in reversed(findings)}
    return Verification(
        path=directory.path,
        files=len(found.sizes),
        bytes=sum(found.sizes.values()),
        has_checksums=found.has_manifest,
        findings=tuple(sorted(unique.values(), key=lambda finding: finding.file)),
    )


async def _check_sums(
    directory: ImageDirectory, found: Inventory, workers: Workers
) -> list[Finding]:
    findings: list[Finding] = []
    # The largest first, so that the last one is not waited for alone.
    rest = iter(_bundled(sorted(found.pending, key=lambda entry: -entry.size)))

    def check(bundle: list[Entry]) -> list[Finding]:
        return [
            finding
            for entry in bundle
            if (finding := check_sum(directory, entry)) is not None
        ]

    async def work() -> None:
        for bundle in rest:
            findings.extend(await workers.run(check, bundle))

    async with task_group() as tasks:
        for _ in range(THREADS):
            tasks.start_soon(work)
    return findings


_BUNDLE_BYTES = 4 << 20


def _bundled(entries: list[Entry]) -> list[list[Entry]]:
    """Put small files together: a hop to a worker takes longer than one of them."""
    bundles: list[list[Entry]] = []
    room = 0
    for entry in entries:
        if entry.size > room or not bundles:
            bundles.append([])
            room = _BUNDLE_BYTES
        bundles[-1].append(entry)
        room -= entry.size
    return bundles

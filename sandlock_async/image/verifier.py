"""What is wrong with an image: its structure, its sizes, its checksums. Blocks."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandlock_async.errors import ImageCorruptError, ImageError
from sandlock_async.image import layout
from sandlock_async.image.age import Identities
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.image.manifest import Entry
from sandlock_async.image.reader import read_family

_FOLDER = "a folder that no image has"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong.

    :ivar file: its path from the image's folder, ``"."`` for that itself
    :ivar problem: what is wrong with it
    """

    file: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What an image holds, and what is wrong with it at first sight.

    :ivar sizes: bytes of every regular file, by name
    :ivar pending: files whose content is to be compared with their sums
    :ivar has_manifest: whether it says what it should hold
    """

    sizes: dict[str, int]
    findings: list[Finding]
    pending: list[Entry]
    has_manifest: bool


def check_structure(path: Path, identities: Identities | None) -> list[Finding]:
    """Return why the checkpoint at *path* cannot be loaded, if it cannot.

    :param identities: what opens it if it is encrypted
    :raises CheckpointNotFoundError: if there is no such directory
    """
    try:
        family = read_family(path, identities)
    except ImageError as error:
        if error.path == path:
            raise
        return [finding_of(error, path)]
    for read in family:
        read.directory.close()
    return []


def take_inventory(directory: ImageDirectory) -> Inventory:
    """List the files of an image, and compare them with its manifest, if it has one.

    :raises ImageError: if the folder cannot be read
    """
    sizes: dict[str, int] = {}
    findings: list[Finding] = []
    for name, status in directory.walk():
        if stat.S_ISREG(status.st_mode):
            sizes[name] = status.st_size
        elif stat.S_ISDIR(status.st_mode):
            findings.append(Finding(file=name, problem=_FOLDER))
        else:
            findings.append(Finding(file=name, problem="no regular file"))
    try:
        manifest = directory.manifest()
        if manifest is None and layout.EXTENDED_PROCESS in sizes:
            problem = "missing: nothing tells whether the image is what was written"
            findings.append(Finding(file=layout.MANIFEST, problem=problem))
    except ImageError as error:
        findings.append(finding_of(error, directory.path))
        manifest = None
    pending: list[Entry] = []
    if manifest is not None:
        odd = {finding.file for finding in findings}
        foreign = sizes.keys() - manifest.keys() - {layout.MANIFEST}
        findings += [
            Finding(file=name, problem="not of this image") for name in foreign
        ]
        for name, entry in manifest.items():
            size = sizes.get(name)
            if size == entry.size or (directory.is_encrypted and size is not None):
                pending.append(entry)
            elif size is not None:
                problem = f"{size} bytes instead of {entry.size}"
                findings.append(Finding(file=name, problem=problem))
            elif name not in odd:
                findings.append(Finding(file=name, problem="missing"))
    return Inventory(
        sizes=sizes,
        findings=findings,
        pending=pending,
        has_manifest=manifest is not None,
    )


def check_sum(directory: ImageDirectory, entry: Entry) -> Finding | None:
    """Return what is wrong with a file of an image, if anything is."""
    try:
        if directory.sum(entry.name, entry.size) == entry.blake3:
            return None
        return Finding(file=entry.name, problem="damaged: its checksum is another one")
    except ImageError as error:
        return finding_of(error, directory.path)


def verify_directory(
    directory: ImageDirectory, is_wanted: Callable[[str], bool] = lambda _: True
) -> None:
    """Return if the files of an image are those that have been written.

    :param is_wanted: whether a file's content is to be compared, by its name
    :raises ImageCorruptError: naming the first that is not
    """
    found = take_inventory(directory)
    findings = found.findings or [
        finding
        for entry in found.pending
        if is_wanted(entry.name)
        and (finding := check_sum(directory, entry)) is not None
    ]
    for finding in findings:
        raise ImageCorruptError(directory.path / finding.file, finding.problem)


def verify_metadata(directory: ImageDirectory) -> None:
    """Return if what is not memory is what has been written; memory is when copied.

    :raises ImageCorruptError: naming the first file that is not
    """
    verify_directory(directory, lambda name: not layout.is_memory_file(name))


def finding_of(error: ImageError, path: Path) -> Finding:
    """Return what an error says of a file below *path*."""
    file = os.path.relpath(error.path, path)
    if isinstance(error, ImageCorruptError):
        return Finding(file=file, problem=error.reason)
    return Finding(file=file, problem=str(error).replace(f"{error.path}: ", "", 1))

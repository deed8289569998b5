"""A checkpoint directory to a picture, whatever layout it has."""

from dataclasses import dataclass
from pathlib import Path

from sandlock_async.errors import (
    ImageCorruptError,
    ImageError,
    ImageVersionError,
)
from sandlock_async.image import FORMATS, layout
from sandlock_async.image.age import Identities
from sandlock_async.image.directory import READ_TRIES, ImageDirectory
from sandlock_async.image.files import Format
from sandlock_async.image.operation import Operation, decode_operation
from sandlock_async.image.strict_json import Fields, Malformed, loads
from sandlock_async.model import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """An image that has been read.

    :ivar picture: its content; memory is read through the directory
    :ivar format: the layout it is in
    :ivar directory: to be closed when the picture is done with
    """

    picture: Picture
    format: Format
    directory: ImageDirectory


def read_image(path: Path, identities: Identities | None = None) -> Read:
    """Read the checkpoint at *path*; anew, if it is replaced meanwhile.

    :param identities: what opens it if it is encrypted
    :raises CheckpointNotFoundError: if there is no such directory
    :raises ImageCorruptError: naming the file that is missing or malformed
    :raises ImageVersionError: if it is of a version unknown here
    :raises ImageError: if it cannot be read
    """
    tries = READ_TRIES
    while True:
        directory = ImageDirectory(path, identities)
        try:
            return _read(directory)
        except BaseException as error:
            replaced = (
                isinstance(error, ImageCorruptError) and not directory.is_current()
            )
            directory.close()
            tries -= 1
            if not replaced or not tries:
                raise


def _read(directory: ImageDirectory) -> Read:
    layout_of_it = _format_of(directory)
    picture = layout_of_it.decode(directory)
    if not directory.is_current():
        # What has been replaced is removed, so a file may seem to be left out.
        raise directory.corrupt(layout.META, "replaced or removed while it was read")
    return Read(picture=picture, format=layout_of_it, directory=directory)


def _format_of(directory: ImageDirectory) -> Format:
    try:
        meta = Fields(loads(directory.read(layout.META)), "meta")
    except Malformed as error:
        raise directory.corrupt(layout.META, str(error)) from error
    found = meta.value("version")
    for known in FORMATS.values():
        if found == known.version and not isinstance(found, bool | float):
            return known
    expected = "none, " + ", ".join(
        str(known.version) for known in FORMATS.values() if known.version is not None
    )
    raise ImageVersionError(directory.path / layout.META, found, expected)


def read_with_children(
    path: Path, identities: Identities | None = None
) -> tuple[Read, list[int]]:
    """Read the checkpoint at *path*, and which descendants it holds.

    :param identities: what opens it if it is encrypted
    :raises ImageError: as :func:`read_image`; theirs are not looked into
    """
    for _ in range(READ_TRIES):
        read = read_image(path, identities)
        try:
            children = read.directory.children()
            if read.directory.is_current():
                return read, children
        except BaseException:
            read.directory.close()
            raise
        read.directory.close()  # what has been replaced is removed
    raise ImageError(f"{path}: changes all the time", path=path)


def read_family(path: Path, identities: Identities | None = None) -> list[Read]:
    """Read the checkpoint at *path*, and those of its descendants that it holds.

    :param identities: what opens them if they are encrypted
    :raises ImageError: as :func:`read_image`, for any of them
    """
    family = [read_image(path, identities)]
    policies = 0
    try:
        for pid in family[0].directory.children():
            directory = family[0].directory.child(pid)
            try:
                family.append(_read(directory))
            except BaseException:
                directory.close()
                raise
            if family[-1].picture.process_state.pid != pid:
                raise family[-1].directory.corrupt(
                    layout.INFO, f"not of process {pid}, as the folder has it"
                )
            policies += len(family[-1].picture.policy)
            if policies > layout.MAX_POLICIES_BYTES:
                raise family[-1].directory.corrupt(
                    layout.POLICY, f"{policies} bytes for all descendants are too many"
                )
    except BaseException:
        for read in family:
            read.directory.close()
        raise
    return family


def find_operation(directory: ImageDirectory) -> Operation | None:
    """Return the capture that a checkpoint is from, if that has a name.

    That of an encrypted one cannot be told.

    :raises ImageCorruptError: if what says so is damaged
    :raises ImageError: if that cannot be read
    """
    if directory.is_encrypted:
        return None
    content = directory.read_optional(layout.OPERATION)
    try:
        return None if content is None else decode_operation(content, directory.path)
    except Malformed as error:
        raise directory.corrupt(layout.OPERATION, str(error)) from error

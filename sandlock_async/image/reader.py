"""A checkpoint directory to a picture, whatever layout it has."""

from pathlib import Path

from sandlock_async.image import FORMATS
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.model import Picture


def read_picture(path: Path) -> tuple[Picture, ImageDirectory]:
    """Read the checkpoint at *path*; its memory is read through the directory.

    :return: the picture, and what to close when it is done with
    :raises CheckpointNotFoundError: if there is no such directory
    :raises ImageError: if it is not a whole image of a known version
    """
    directory = ImageDirectory(path)
    try:
        return FORMATS["v1"].decode(directory), directory
    except BaseException:
        directory.close()
        raise

"""What an error of the file system means for whoever reads an image."""

import errno
from contextlib import AbstractContextManager
from pathlib import Path

from sandlock_async.errors import CURES, ImageError, translated_by

_NO_RIGHT = "use the account that wrote the checkpoint; captures are kept secret"
_HELP = CURES | {errno.EACCES: _NO_RIGHT, errno.EPERM: _NO_RIGHT}


def image_error(error: OSError, path: Path) -> ImageError:
    """Return what an error of the file system means for a reader."""
    reason = error.strerror or error
    return ImageError(
        f"cannot read {path}: {reason}", path=path, help=_HELP.get(error.errno or 0, "")
    )


def reading(path: Path) -> AbstractContextManager[None]:
    """Turn every :exc:`OSError` inside to an :exc:`ImageError`: of want of threads, too."""
    return translated_by(lambda error: image_error(error, path))

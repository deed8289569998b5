"""The image formats: all knowledge of what is in which file, and none of disks' ways.

One module for each released layout of sandlock, on the model of
:mod:`sandlock_async.model`; :data:`FORMATS` names them.
"""

from sandlock_async.image import v1
from sandlock_async.image.files import Format

FORMATS: dict[str, Format] = {v1.FORMAT.name: v1.FORMAT}
"""Every layout that can be written, by the name that ``format=`` takes."""


def find_format(name: str) -> Format:
    """Return the layout of that name.

    :raises ValueError: if there is none
    """
    if name not in FORMATS:
        known = ", ".join(repr(known) for known in FORMATS)
        raise ValueError(f"unknown image format {name!r}: this release writes {known}")
    return FORMATS[name]

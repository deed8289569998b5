"""The image formats: all knowledge of what is in which file, and none of disks' ways.

One module for each released layout of sandlock, on the model of
:mod:`sandlock_async.model`; :data:`FORMATS` names them.
"""

from sandlock_async.image import v1, v2, v3
from sandlock_async.image.files import Format

FORMATS: dict[str, Format] = {
    this.name: this for this in (v1.FORMAT, v2.FORMAT, v3.FORMAT)
}
"""Every layout, by the name that ``format=`` takes."""


def find_format(name: str) -> Format:
    """Return the layout of that name.

    :raises ValueError: if there is none
    """
    if name not in FORMATS:
        known = ", ".join(repr(known) for known in FORMATS)
        raise ValueError(f"unknown image format {name!r}: this release writes {known}")
    return FORMATS[name]

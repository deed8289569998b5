"""A picture to the files of an image, in any layout."""

from dataclasses import dataclass, replace

from sandlock_async.image.files import Format, ImageFiles
from sandlock_async.image.policy.carry import carry_policy
from sandlock_async.model import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class LaidOut:
    """The files of an image.

    :ivar warnings: what the layout cannot say of the picture
    """

    files: ImageFiles
    warnings: tuple[str, ...]


def lay_out(picture: Picture, format: Format) -> LaidOut:
    """Lay *picture* out as files; its policy is brought to the layout's version."""
    carried = carry_policy(picture.policy, picture.policy_version, format.name)
    carrying = replace(picture, policy=carried.data, policy_version=carried.version)
    return LaidOut(files=format.encode(carrying), warnings=carried.warnings)

"""A picture to the files of an image, in any layout."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sandlock_async.image import layout
from sandlock_async.image.files import Format, ImageFiles
from sandlock_async.image.policy.carry import carry_policy
from sandlock_async.model import Picture, Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class LaidOut:
    """The files of an image.

    :ivar name: of the checkpoint
    :ivar warnings: what the layout cannot say of the picture
    :ivar skipped: what is not in it though it should be
    """

    name: str
    files: ImageFiles
    warnings: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def lay_out(picture: Picture, format: Format) -> LaidOut:
    """Lay *picture* out as files; its policy is brought to the layout's version."""
    carried = carry_policy(picture.policy, picture.policy_version, format.name)
    carrying = replace(picture, policy=carried.data, policy_version=carried.version)
    return LaidOut(
        name=picture.name,
        files=format.encode(carrying),
        warnings=carried.warnings,
        skipped=picture.process_state.skipped,
    )


def lay_out_tree(
    picture: Picture, children: Sequence[Picture], format: Format
) -> LaidOut:
    """Lay out a picture and those of its descendants, which go to ``children/PID``."""
    whole = lay_out(picture, format)
    small = dict(whole.files.small)
    meta = small.pop(layout.META)
    segments = list(whole.files.segments)
    skipped = list(whole.skipped)
    for child in children:
        pid = child.process_state.pid
        laid_out = lay_out(child.named(str(pid)), format)
        for name, content in laid_out.files.small.items():
            small[layout.child_name(pid, name)] = content
        segments += [
            (layout.child_name(pid, name), segment)
            for name, segment in laid_out.files.segments
        ]
        skipped += laid_out.skipped
    small[layout.META] = meta  # the last of all
    files = ImageFiles(small=small, segments=tuple(segments))
    return replace(whole, files=files, skipped=tuple(skipped))

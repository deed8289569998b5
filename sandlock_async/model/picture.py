"""A picture: a process at one instant, and what belongs to it."""

from dataclasses import dataclass, replace

from sandlock_async.model.descriptors import FdInfo
from sandlock_async.model.process import ProcessState


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A process at one instant, and what belongs to it.

    :ivar name: the checkpoint's name; empty until it is saved under one
    :ivar policy: sandlock's ``policy.dat``, byte for byte
    :ivar process_state: registers, mappings and memory
    :ivar fd_table: open descriptors, by number
    :ivar cow_snapshot: sandlock's copy-on-write snapshot, None if there is none
    :ivar app_state: bytes of the application's own, None if there are none
    :ivar policy_version: the version of sandlock's policy that *policy* is: ``v1``,
        ``v2`` or ``v3``; None if nobody has said, and it is passed through
    """

    name: str
    policy: bytes
    process_state: ProcessState
    fd_table: tuple[FdInfo, ...]
    cow_snapshot: str | None = None
    app_state: bytes | None = None
    policy_version: str | None = None

    def named(self, default: str) -> "Picture":
        """Return the picture under its own name, or *default* if it has none.

        What is not Unicode in it is replaced, as JSON cannot hold it.
        """
        return replace(self, name=unicode(self.name or default))


def unicode(text: str) -> str:
    """Return *text* without the surrogates that stand for bytes, os.fsdecode()."""
    return text.encode(errors="surrogatepass").decode(errors="replace")

"""What is seen of a process through the frozen window, memory aside."""

from dataclasses import dataclass

from sandlock_async.injection.questions import Answers
from sandlock_async.procfs.maps import Mapping
from sandlock_async.snapshot.asking import Unasked
from sandlock_async.snapshot.details import RawDetails
from sandlock_async.snapshot.facts import Facts
from sandlock_async.snapshot.fd_contents import RawContent


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A process as it stood; bytes of procfs for the most part.

    :ivar contents: what waits in pipes and unix sockets
    :ivar asked: what a clone of it has said
    """

    facts: Facts
    contents: list[RawContent]
    details: RawDetails
    mappings: list[Mapping]
    asked: Answers | Unasked

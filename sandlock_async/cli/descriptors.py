"""Open descriptors, as ``inspect`` shows them."""

from rich.table import Table

from sandlock_async.checkpoint import Checkpoint
from sandlock_async.cli import output
from sandlock_async.image.records import encode_record
from sandlock_async.model import FdDetails, ProcessState, SkippedFd


def fd_entries(picture: Checkpoint) -> list[dict[str, object]]:
    """Return the descriptors for JSON; what sandlock's images lack is null."""
    details = _by_number(picture.process_state)
    return [
        {
            "fd": this.fd,
            "path": this.path,
            "flags": this.flags,
            "offset": this.offset,
            "kind": details[this.fd].what.kind if this.fd in details else None,
            "details": _details(details[this.fd]) if this.fd in details else None,
        }
        for this in picture.fd_table
    ]


def skipped_fd_entries(state: ProcessState) -> list[dict[str, object]]:
    """Return for JSON why content of descriptors is missing."""
    return [{"fd": this.fd, "reason": this.reason} for this in state.skipped_fds]


def fds_table(picture: Checkpoint) -> Table:
    """Return the descriptors for people."""
    details = _by_number(picture.process_state)
    return output.table(
        [">fd", "kind", ">offset", "flags", "path"],
        [
            (
                this.fd,
                details[this.fd].what.kind if this.fd in details else None,
                this.offset,
                f"{this.flags:#o}",
                this.path,
            )
            for this in picture.fd_table
        ],
    )


def skipped_fds_table(skipped: tuple[SkippedFd, ...]) -> Table:
    """Return for people why content of descriptors is missing."""
    return output.table([">fd", "reason"], [(this.fd, this.reason) for this in skipped])


def _by_number(state: ProcessState) -> dict[int, FdDetails]:
    return {this.fd: this for this in state.fd_details}


def _details(this: FdDetails) -> dict[str, object]:
    fields = encode_record(this.what)
    del fields["kind"]
    return {**fields, "same_as": this.same_as}

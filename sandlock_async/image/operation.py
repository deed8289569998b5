"""``extended/operation.json``: which capture an image is from, and what it reported."""

from dataclasses import asdict, dataclass
from pathlib import Path

from sandlock_async.image.process_json import dumps
from sandlock_async.image.strict_json import I32, U64, Fields, loads
from sandlock_async.model import Skipped
from sandlock_async.report import CaptureReport

_PHASES = ("prepare", "attach", "freeze", "write")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A capture that has been made.

    :ivar id: what its caller calls it
    """

    id: str
    report: CaptureReport


def encode_operation(operation: Operation) -> bytes:
    """Return the content of the file."""
    report = asdict(operation.report)
    del report["path"]  # the image may be moved
    return dumps({"id": operation.id, "report": report})


def decode_operation(content: bytes, path: Path) -> Operation:
    """Return what the file of the image at *path* says.

    :raises Malformed: if it is none
    """
    fields = Fields(loads(content), "operation")
    report = Fields(fields.value("report"), "report")
    phases = Fields(report.value("phases_ms"), "phases_ms")
    return Operation(
        id=fields.text("id"),
        report=CaptureReport(
            path=path,
            name=report.text("name"),
            pid=report.integer("pid", I32),
            format=report.text("format"),
            strategy=report.text("strategy"),
            reason=report.text("reason"),
            threads=report.integer("threads", U64),
            segments=report.integer("segments", U64),
            captured_bytes=report.integer("captured_bytes", U64),
            written_bytes=report.integer("written_bytes", U64),
            freeze_ms=report.number("freeze_ms"),
            total_ms=report.number("total_ms"),
            phases_ms={phase: phases.number(phase) for phase in _PHASES},
            skipped=report.items("skipped", _decode_skipped),
            warnings=report.texts("warnings"),
            children=report.integers("children", I32),
        ),
    )


def _decode_skipped(fields: Fields) -> Skipped:
    return Skipped(
        start=fields.integer("start", U64),
        end=fields.integer("end", U64),
        path=fields.optional_text("path"),
        reason=fields.text("reason"),
    )

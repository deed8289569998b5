"""``capture``: one picture of one process."""

import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sandlock_async.budget import DEFAULT_LIMIT
from sandlock_async.capture import capture_to
from sandlock_async.cli import output
from sandlock_async.cli.bar import Bar
from sandlock_async.cli.job import (
    Job,
    checked_operation_id,
    checkpoint_path,
    examples,
    file_content,
    json_option,
    pid_argument,
    recipient_option,
)
from sandlock_async.cli.output import Answer
from sandlock_async.image import FORMATS
from sandlock_async.model import Skipped
from sandlock_async.report import CaptureReport
from sandlock_async.strategy import Strategy

_MAX_SKIPPED_SHOWN = 10
"""Lines of what is not in the image; ``inspect`` shows them all."""


def _seconds(value: str | float) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise click.BadParameter(f"{value!r} is not a time in seconds.")
    return seconds


@click.command(
    "capture",
    epilog=examples(
        "sandlock-async capture 4242 ckpt/web",
        "sandlock-async capture 4242 ckpt/web --replace --json",
        "sandlock-async capture $(pidof redis-server) /backup/redis --timeout 2",
    ),
)
@pid_argument(required=True)
@click.argument("directory", metavar="DIR", type=checkpoint_path)
@click.option("--name", metavar="N", help="Its name.  [default: that of DIR]")
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(FORMATS)),
    default="v1",
    show_default=True,
    help="The layout: v1 is sandlock 0.8.2's, v2 0.8.6's, v3 0.9.0's.",
)
@click.option(
    "--strategy",
    type=click.Choice([str(strategy) for strategy in Strategy]),
    default="auto",
    show_default=True,
    help="How the memory is read.",
)
@click.option(
    "--timeout",
    metavar="S",
    type=_seconds,
    default=10.0,
    show_default=True,
    help="Seconds for attach and freeze; the writing afterwards is free.",
)
@click.option(
    "--memory-limit",
    metavar="BYTES",
    type=click.IntRange(min=0),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="Memory for the copy; more is written while the process is frozen.",
)
@click.option("--tree", is_flag=True, help="Its descendants too, at the same instant.")
@click.option(
    "--exclude-dontdump",
    is_flag=True,
    help="Leave out what the program wants in no core dump (MADV_DONTDUMP).",
)
@click.option(
    "--operation-id",
    metavar="ID",
    type=checked_operation_id,
    help="A name for this very capture: done once, however often it is asked for.",
)
@click.option("--replace", is_flag=True, help="Replace a checkpoint that is there.")
@click.option(
    "--no-durable", is_flag=True, help="Do not wait for the disk (no fsync): faster."
)
@click.option(
    "--policy",
    metavar="FILE",
    type=file_content,
    help="sandlock's policy.dat to put in.  [default: that of an empty policy]",
)
@click.option(
    "--app-state",
    metavar="FILE",
    type=file_content,
    help="Bytes of the application's own to put in.",
)
@recipient_option
@json_option
def capture(
    pid: int,
    directory: Path,
    *,
    name: str | None,
    format_: str,
    strategy: str,
    timeout: float,
    memory_limit: int,
    tree: bool,
    exclude_dontdump: bool,
    operation_id: str | None,
    replace: bool,
    no_durable: bool,
    policy: bytes | None,
    app_state: bytes | None,
    recipients: tuple[str, ...],
    as_json: bool,
) -> Job:
    """Capture process PID to the checkpoint directory DIR.

    The process stands still for a moment, and runs on. DIR appears whole, or not
    at all; Ctrl-C leaves nothing behind.
    """
    if operation_id is not None and recipients:
        raise click.UsageError(
            "--operation-id cannot be given with --recipient: it would be in the clear."
        )
    work = partial(
        capture_to,
        pid,
        directory,
        name=name,
        policy=policy,
        app_state=app_state,
        format=format_,
        strategy=strategy,
        timeout=timeout,
        memory_limit=memory_limit,
        tree=tree,
        exclude_dontdump=exclude_dontdump,
        operation_id=operation_id,
        recipients=recipients,
        replace=replace,
        durable=not no_durable,
    )
    return Job(work=partial(_capture, work, as_json=as_json), as_json=as_json)


async def _capture(
    work: Callable[..., Coroutine[Any, Any, CaptureReport]], *, as_json: bool
) -> Answer:
    if as_json or not output.is_terminal():
        report = await work()
    else:
        with Bar(output.people()) as bar:
            report = await work(on_event=bar.tell)
    return Answer(content=report_content(report), text=partial(_text, report))


def report_content(report: CaptureReport) -> dict[str, object]:
    """Return a report as JSON has it."""
    return asdict(report)


def _text(report: CaptureReport) -> Group:
    return output.lines(
        f"captured process {report.pid} to {output.text_of(report.path)}",
        report_table(report),
        *(f"warning: {output.text_of(warning)}" for warning in report.warnings),
        *_skipped(report),
    )


def report_table(report: CaptureReport) -> Table:
    """Return the numbers of a report for people."""
    return output.fields(
        [
            ("name", report.name),
            ("frozen", output.milliseconds(report.freeze_ms)),
            ("in all", output.milliseconds(report.total_ms)),
            ("threads", report.threads),
            *([("children", len(report.children))] if report.children else []),
            ("segments", report.segments),
            ("captured", output.size(report.captured_bytes)),
            ("written", output.size(report.written_bytes)),
            ("format", report.format),
            ("strategy", f"{report.strategy}: {report.reason}"),
        ]
    )


def _skipped(report: CaptureReport) -> list[RenderableType]:
    if not report.skipped:
        return []
    shown = report.skipped[:_MAX_SKIPPED_SHOWN]
    parts: list[RenderableType] = [
        output.heading("Not in the image"),
        skipped_table(shown),
    ]
    rest = len(report.skipped) - len(shown)
    if rest:
        parts.append(Text(f"and {rest} more"))
    return parts


def skipped_table(skipped: Sequence[Skipped]) -> Table:
    """Return what is not in an image for people."""
    return output.table(
        ["start", "end", ">size", "reason", "path"],
        [
            (
                f"{this.start:#x}",
                f"{this.end:#x}",
                output.size(this.end - this.start),
                this.reason,
                this.path,
            )
            for this in skipped
        ],
    )

"""``demo``: the whole way, on a real sandbox."""

import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import rich_click as click
from rich.console import Group, RenderableType
from rich.text import Text

from sandlock_async.capture import capture_to
from sandlock_async.checkpoint import Checkpoint
from sandlock_async.cli import output
from sandlock_async.cli.capture import report_content, report_table
from sandlock_async.cli.job import Job, checkpoint_path, examples, json_option
from sandlock_async.cli.output import Answer
from sandlock_async.cli.sandbox import Found, Workload, find_line, sandbox_at_work
from sandlock_async.errors import CheckpointExistsError
from sandlock_async.model import Picture
from sandlock_async.report import CaptureReport
from sandlock_async.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    """Something that the demo proves."""

    name: str
    ok: bool
    detail: str


@click.command(
    "demo",
    epilog=examples(
        "sandlock-async demo",
        "sandlock-async demo /tmp/ckpt/demo",
    ),
)
@click.argument("directory", metavar="[DIR]", required=False, type=checkpoint_path)
@json_option
def demo(directory: Path | None, *, as_json: bool) -> Job:
    """Capture a real sandbox and show what came of it.

    Starts a sandlock sandbox with a small program, captures it to DIR (by default a
    new temporary directory), loads the checkpoint, and proves that it holds the
    program's memory and that the program runs on. The sandbox ends with the demo;
    the checkpoint stays.
    """
    return Job(work=partial(_demo, directory), as_json=as_json)


async def _demo(directory: Path | None) -> Answer:
    async with Workers() as workers, _destination(directory, workers) as destination:
        async with sandbox_at_work(workers) as workload:
            report = await capture_to(workload.sandbox, destination)
            async with await Checkpoint.load(destination) as picture:
                found = await workers.run(find_line, picture.process_state)
            checks = await _checks(workload, report, picture, found)
    return Answer(
        content={
            "path": report.path,
            "report": report_content(report),
            "checks": [asdict(check) for check in checks],
        },
        text=partial(_text, workload, report, checks),
        exit_code=0 if all(check.ok for check in checks) else 1,
    )


@asynccontextmanager
async def _destination(
    directory: Path | None, workers: Workers
) -> AsyncGenerator[Path]:
    """Yield where the checkpoint goes; a folder made for it goes if the demo fails."""
    if directory is not None:
        if await workers.run(directory.exists):
            error = CheckpointExistsError(directory)
            error.help = "choose another directory: the demo replaces nothing"
            raise error
        yield directory
        return
    folder = Path(
        await workers.run(partial(tempfile.mkdtemp, prefix="sandlock-async-demo-"))
    )
    try:
        yield folder / "demo"
    except BaseException:
        await workers.run(partial(shutil.rmtree, folder, ignore_errors=True))
        raise


async def _checks(
    workload: Workload, report: CaptureReport, picture: Picture, found: Found | None
) -> list[_Check]:
    state = picture.process_state
    opened = [this for this in picture.fd_table if this.path == str(workload.page)]
    now = await workload.count_beyond(found.count if found else 0)
    return [
        _Check(
            name="loads",
            ok=state.pid == report.pid and len(state.threads) == report.threads,
            detail=f"process {state.pid} with {len(state.threads)} threads, "
            f"{len(state.memory_data)} segments, {len(picture.fd_table)} open files",
        ),
        _Check(
            name="memory",
            ok=found is not None,
            detail=f"at {found.address:#x} it holds {found.text!r}"
            if found
            else "the program's own words are not in it",
        ),
        _Check(
            name="files",
            ok=bool(opened),
            detail=f"{opened[0].path} is open as fd {opened[0].fd}"
            if opened
            else f"{workload.page} is not among its open files",
        ),
        _Check(
            name="runs on",
            ok=found is not None and now > found.count,
            detail=f"process {workload.pid} has counted to {now} since",
        ),
    ]


def _text(workload: Workload, report: CaptureReport, checks: list[_Check]) -> Group:
    path = output.text_of(report.path)
    store = output.text_of(report.path.parent)
    proofs: list[RenderableType] = [
        Text.assemble(
            ("ok      ", "green") if check.ok else ("FAILED  ", "bold red"),
            (f"{check.name:<8}", "bold"),
            output.text_of(check.detail),
        )
        for check in checks
    ]
    return output.lines(
        f"A sandbox of sandlock {workload.sandlock} was at work as process "
        f"{workload.pid}, and has been captured to {path}",
        report_table(report),
        output.heading("What the checkpoint proves"),
        *proofs,
        output.heading("What to do next"),
        f"sandlock-async inspect {path}",
        f"sandlock-async list {store}",
        "sandlock-async capture PID DIR",
    )

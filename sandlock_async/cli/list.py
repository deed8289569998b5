"""``list``: the checkpoints in a folder."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import rich_click as click
from rich.console import Group

from sandlock_async.cli import output
from sandlock_async.cli.job import Job, examples, json_option
from sandlock_async.cli.output import Answer
from sandlock_async.errors import SandlockAsyncError
from sandlock_async.image.reader import read_image
from sandlock_async.store.listing import find_checkpoints, measure
from sandlock_async.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A checkpoint in the list.

    :ivar error: why it cannot be loaded; the fields above it are then None
    """

    name: str
    path: Path
    format: str | None = None
    pid: int | None = None
    exe: str | None = None
    disk_bytes: int | None = None
    error: str | None = None


@click.command(
    "list",
    epilog=examples(
        "sandlock-async list ckpt",
        "sandlock-async list ckpt --json | jq '.checkpoints[].name'",
    ),
)
@click.argument("store", type=click.Path(path_type=Path))
@json_option
def list_(store: Path, *, as_json: bool) -> Job:
    """Show the checkpoints in the folder STORE."""
    return Job(work=partial(_list, store.absolute()), as_json=as_json)


async def _list(store: Path) -> Answer:
    async with Workers() as workers:
        names = await workers.run(find_checkpoints, store)
        entries = [await workers.run(_read, store / name) for name in names]
    return Answer(
        content={"checkpoints": [_content(entry) for entry in entries]},
        text=partial(_text, store, entries),
    )


def _read(path: Path) -> _Entry:
    disk_bytes: int | None = None
    try:
        disk_bytes = measure(path).disk_bytes
        read = read_image(path)
    except SandlockAsyncError as error:
        return _Entry(
            name=path.name, path=path, disk_bytes=disk_bytes, error=str(error)
        )
    read.directory.close()
    state = read.picture.process_state
    return _Entry(
        name=path.name,
        path=path,
        format=read.format.name,
        pid=state.pid,
        exe=state.exe,
        disk_bytes=disk_bytes,
    )


def _content(entry: _Entry) -> dict[str, object]:
    content = asdict(entry)
    if entry.error is None:
        del content["error"]
    return content


def _text(store: Path, entries: list[_Entry]) -> Group:
    if not entries:
        return output.lines(f"no checkpoints in {output.text_of(store)}")
    return output.lines(
        output.table(
            ["name", ">pid", ">on disk", "format", "program"],
            [
                (
                    entry.name,
                    entry.pid,
                    None if entry.disk_bytes is None else output.size(entry.disk_bytes),
                    entry.format,
                    entry.exe if entry.error is None else f"error: {entry.error}",
                )
                for entry in entries
            ],
        )
    )

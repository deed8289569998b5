"""``inspect``: what is in a checkpoint."""

import shlex
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import rich_click as click
from rich.console import Group, RenderableType
from rich.table import Table

from sandlock_async.arch import MACHINES, Machine
from sandlock_async.checkpoint import Checkpoint, absolute
from sandlock_async.cli import output
from sandlock_async.cli.capture import skipped_table
from sandlock_async.cli.descriptors import (
    fd_entries,
    fds_table,
    skipped_fd_entries,
    skipped_fds_table,
)
from sandlock_async.cli.job import (
    Job,
    checkpoint_path,
    examples,
    identity_option,
    json_option,
)
from sandlock_async.cli.output import Answer
from sandlock_async.image.age import as_identities
from sandlock_async.image.layout import child_name
from sandlock_async.image.policy import decode_policy, default_policy
from sandlock_async.image.reader import read_with_children
from sandlock_async.image.records import encode_record
from sandlock_async.model import MemoryMap, ProcessState
from sandlock_async.store.listing import Sizes, measure
from sandlock_async.workers import Workers


@click.command(
    "inspect",
    epilog=examples(
        "sandlock-async inspect ckpt/web",
        "sandlock-async inspect ckpt/web --json | jq '.threads[].pc'",
    ),
)
@click.argument("directory", metavar="DIR", type=checkpoint_path)
@identity_option
@json_option
def inspect(directory: Path, *, identities: tuple[Path, ...], as_json: bool) -> Job:
    """Show what is in the checkpoint directory DIR.

    The process, its threads, memory, open files, sizes, and the descendants that
    were captured with it. Memory itself is not read.
    """
    return Job(work=partial(_inspect, directory, identities), as_json=as_json)


async def _inspect(directory: Path, identities: tuple[Path, ...]) -> Answer:
    async with Workers() as workers:
        keys = await workers.run(as_identities, identities)
        read, children = await workers.acquire(
            lambda found: found[0].directory.close(),
            read_with_children,
            absolute(directory),
            keys,
        )
        release = read.directory.close
        async with Checkpoint.of(read.picture, release, read.format.name) as picture:
            sizes = await workers.run(measure, directory)
    return Answer(
        content=_content(picture, sizes, children),
        text=partial(_text, directory, picture, sizes, children),
    )


def _content(
    picture: Checkpoint, sizes: Sizes, children: Sequence[int]
) -> dict[str, object]:
    state = picture.process_state
    machine = _machine(state)
    return {
        "name": picture.name,
        "format": picture.format,
        "pid": state.pid,
        "exe": state.exe,
        "cwd": state.cwd,
        "arch": machine.name if machine else state.arch,
        "pc": _pc(machine, state.regs),
        "children": children,
        "threads": [
            {
                "tid": thread.tid,
                "pc": _pc(machine, thread.regs),
                "sp": _sp(machine, thread.regs),
                **encode_record(thread),
            }
            for thread in state.threads
        ],
        "memory_maps": [
            {
                "start": this.start,
                "end": this.end,
                "perms": this.perms,
                "offset": this.offset,
                "path": this.path,
            }
            for this in state.memory_maps
        ],
        "segments": [
            {"start": segment.start, "size": len(segment.data)}
            for segment in state.memory_data
        ],
        "extended_segments": [
            {"start": segment.start, "size": len(segment.data)}
            for segment in state.extended_segments
        ],
        "fds": fd_entries(picture),
        "vm_areas": encode_record(state.vm_areas),
        "details": encode_record(state.details),
        "policy": _policy(picture),
        "total_bytes": sizes.total_bytes,
        "disk_bytes": sizes.disk_bytes,
        "skipped": [
            {
                "start": this.start,
                "end": this.end,
                "path": this.path,
                "reason": this.reason,
            }
            for this in state.skipped
        ],
        "skipped_fds": skipped_fd_entries(state),
    }


def _policy(picture: Checkpoint) -> dict[str, object]:
    try:
        policy = decode_policy(picture.format, picture.policy)
    except ValueError as error:
        return {"version": None, "bytes": len(picture.policy), "error": str(error)}
    return {"version": policy.version, "fields": policy.fields}


def _machine(state: ProcessState) -> Machine | None:
    """Return the machine of the image; sandlock's own do not name it."""
    if state.arch is not None:
        return MACHINES.get(state.arch)
    for machine in MACHINES.values():
        if machine.register_count == len(state.regs):
            return machine
    return None


def _pc(machine: Machine | None, regs: tuple[int, ...]) -> int | None:
    return _register(machine.pc, regs) if machine else None


def _sp(machine: Machine | None, regs: tuple[int, ...]) -> int | None:
    return _register(machine.sp, regs) if machine else None


def _register(index: int, regs: tuple[int, ...]) -> int | None:
    return regs[index] if index < len(regs) else None


# -- for people ----------------------------------------------------------------


def _text(
    directory: Path, picture: Checkpoint, sizes: Sizes, children: Sequence[int]
) -> Group:
    state = picture.process_state
    machine = _machine(state)
    segments = {segment.start: len(segment.data) for segment in state.all_segments()}
    captured = sum(segments.values())
    parts: list[str | RenderableType] = [
        output.fields(
            [
                ("checkpoint", directory),
                ("name", picture.name),
                ("format", picture.format),
                ("process", state.pid),
                ("program", state.exe),
                ("folder", state.cwd),
                ("machine", machine.name if machine else state.arch or "unknown"),
                ("memory", f"{len(segments)} segments, {output.size(captured)}"),
                ("files", f"{output.size(sizes.total_bytes)} in all"),
                ("on disk", output.size(sizes.disk_bytes)),
            ]
        ),
        output.heading("Threads"),
        output.table(
            ["tid", "pc", "sp", "runs in"],
            [
                (
                    thread.tid,
                    _hex(_pc(machine, thread.regs)),
                    _hex(_sp(machine, thread.regs)),
                    _place(_pc(machine, thread.regs), state.memory_maps),
                )
                for thread in state.threads
            ],
        ),
        output.heading("Memory"),
        output.table(
            ["start", "end", "perms", ">size", ">captured", "path"],
            [
                (
                    f"{this.start:#x}",
                    f"{this.end:#x}",
                    this.perms,
                    output.size(this.size),
                    output.size(segments[this.start])
                    if this.start in segments
                    else None,
                    this.path,
                )
                for this in state.memory_maps
            ],
        ),
        output.heading("Open files"),
        fds_table(picture),
    ]
    if children:
        parts += [output.heading("Children"), _children_table(directory, children)]
    parts += [output.heading("Policy"), output.fields(_policy_rows(picture))]
    if state.skipped:
        parts += [output.heading("Not in the image"), skipped_table(state.skipped)]
    if state.skipped_fds:
        parts += [
            output.heading("Not in the image of what waits in open files"),
            skipped_fds_table(state.skipped_fds),
        ]
    return output.lines(*parts)


def _children_table(directory: Path, children: Sequence[int]) -> Table:
    return output.table(
        [">pid", "to look at it"],
        [
            (
                pid,
                "sandlock-async inspect "
                + shlex.quote(str(directory / child_name(pid, ""))),
            )
            for pid in children
        ],
    )


def _policy_rows(picture: Checkpoint) -> list[tuple[str, object]]:
    """Return what of the policy is not as in an empty one."""
    policy = _policy(picture)
    if "error" in policy:
        return [("unknown", policy["error"])]
    usual = default_policy(picture.format).fields
    fields = cast("dict[str, object]", policy["fields"])
    rows = [(name, value) for name, value in fields.items() if value != usual[name]]
    return rows or [("empty", "every field is as sandlock has it by default")]


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{value:#x}"


def _place(address: int | None, maps: tuple[MemoryMap, ...]) -> str | None:
    """Return the path of the mapping around *address*."""
    if address is None:
        return None
    index = bisect_right(maps, address, key=lambda this: this.start) - 1
    if index < 0 or address >= maps[index].end:
        return None
    return maps[index].path or "(anonymous)"

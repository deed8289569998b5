"""Whether a picture is of one instant."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import sandlock_async as sa
from benchmarks.results import Result, Row
from benchmarks.sandboxes import Sandboxes

PROGRAMS = Path(__file__).parent.parent / "tests" / "programs"


async def torn(folder: Path, *, quick: bool) -> Result:
    """How far two places of one counter, 400 MB apart, differ in an image."""
    if shutil.which("gcc") is None:
        print("torn: skipped, there is no gcc", file=sys.stderr)
        return Result([])
    program = folder / "twins"
    subprocess.run(
        ["gcc", "-O1", "-pthread", "-o", program, PROGRAMS / "twins.c"], check=True
    )
    status = folder / "status"
    status.write_bytes(bytes(4096))
    ours: list[float] = []
    theirs: list[float] = []
    with Sandboxes(
        "0.9.0", [str(program), str(status), "200"], writable=(str(folder),)
    ) as boxes:
        while not status.read_bytes()[0]:
            await asyncio.sleep(0.001)
        places = [
            int.from_bytes(status.read_bytes()[at : at + 8], "little")
            for at in (24, 32)
        ]
        for _ in range(3 if quick else 10):
            async with await sa.capture(boxes.pids[0], timeout=60) as checkpoint:
                ours.append(_difference(checkpoint, places))
            store = folder / "theirs"
            await boxes.checkpoint(store, durable=False)
            theirs.append(_difference_in_files(store / "it", places))
    return Result(
        [
            Row.of("difference, ours", ours, "steps"),
            Row.of("difference, sandlock 0.9.0", theirs, "steps"),
        ]
    )


def _difference(checkpoint: sa.Checkpoint, places: list[int]) -> float:
    found = []
    for place in places:
        for segment in checkpoint.process_state.memory_data:
            if segment.start <= place < segment.end:
                offset = place - segment.start
                found.append(
                    int.from_bytes(segment.data[offset : offset + 8], "little")
                )
    return abs(found[0] - found[1])


def _difference_in_files(path: Path, places: list[int]) -> float:
    maps = json.loads((path / "process/memory_map.json").read_text())
    found = []
    for place in places:
        for this in maps:
            if this["start"] <= place < this["end"]:
                with (path / f"process/memory/{this['start']:x}.bin").open(
                    "rb"
                ) as file:
                    file.seek(place - this["start"])
                    found.append(int.from_bytes(file.read(8), "little"))
    return abs(found[0] - found[1])

"""Run the benchmarks: ``python -m benchmarks [NAME…] [--quick] [--output DIR]``."""

import argparse
import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import sandlock_async as sa
from benchmarks.sandboxes import Sandbox
from benchmarks.statistics_of import Spread

Row = tuple[str, Spread]
PROGRAMS = Path(__file__).parent.parent / "tests" / "programs"


async def tiny(folder: Path, *, quick: bool) -> list[Row]:
    """Our freeze of a tiny sandboxed process and sandlock's call, in turn, in ms."""
    rows: list[Row] = []
    for version in ("0.9.0", "0.8.2"):
        ours: list[float] = []
        totals: list[float] = []
        theirs: list[float] = []
        saved: list[float] = []
        with Sandbox(version, ["/bin/sleep", "600"]) as sandbox:
            for _ in range(10 if quick else 200):
                report = await sa.capture_to(
                    sandbox.pid, folder / "it", replace=True, durable=False
                )
                ours.append(report.freeze_ms)
                totals.append(report.total_ms)
                taken, both = await asyncio.to_thread(
                    sandbox.checkpoint, str(folder / "theirs")
                )
                theirs.append(taken)
                saved.append(both)
        rows += [
            (f"freeze, sandlock-async (target in {version})", Spread.of(ours)),
            (f"checkpoint() of sandlock {version}", Spread.of(theirs)),
            (f"whole capture_to, not durable (target in {version})", Spread.of(totals)),
            (f"checkpoint() + save() of sandlock {version}", Spread.of(saved)),
        ]
    return rows


async def busy(folder: Path, *, quick: bool) -> list[Row]:
    """Freeze of a tiny process with an idle and a busy event loop, in turn, in ms."""
    process = subprocess.Popen(["sleep", "600"])
    over = asyncio.Event()

    async def spin() -> None:
        while not over.is_set():
            until = time.perf_counter() + 0.005
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0)

    idle: list[float] = []
    loaded: list[float] = []
    try:
        for _ in range(10 if quick else 50):
            report = await sa.capture_to(
                process, folder / "it", replace=True, durable=False
            )
            idle.append(report.freeze_ms)
            over.clear()
            spinner = asyncio.ensure_future(spin())
            report = await sa.capture_to(
                process, folder / "it", replace=True, durable=False
            )
            loaded.append(report.freeze_ms)
            over.set()
            await spinner
    finally:
        process.kill()
        process.wait()
    return [
        ("freeze, event loop idle", Spread.of(idle)),
        ("freeze, event loop 100 % busy", Spread.of(loaded)),
    ]


async def lag(folder: Path, *, quick: bool) -> list[Row]:
    """How late a 1 ms timer of the event loop is, in ms."""
    rows: list[Row] = []
    code = "import time; b = bytearray(800 << 20); b[::4096] = b'x' * 204800\n"
    code += "print(flush=True); time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        for name, capturing in (("idle", False), ("capturing 800 MB", True)):
            late: list[float] = []
            over = asyncio.Event()

            async def tick(late: list[float], over: asyncio.Event) -> None:
                while not over.is_set():
                    began = time.perf_counter()
                    await asyncio.sleep(0.001)
                    late.append(1e3 * (time.perf_counter() - began) - 1)

            ticker = asyncio.ensure_future(tick(late, over))
            freezes: list[float] = []
            totals: list[float] = []
            for _ in range(2 if quick else 6):
                if capturing:
                    report = await sa.capture_to(
                        process,
                        folder / "it",
                        replace=True,
                        durable=False,
                        timeout=60,
                    )
                    freezes.append(report.freeze_ms)
                    totals.append(report.total_ms)
                else:
                    await asyncio.sleep(0.5)
            over.set()
            await ticker
            late.sort()
            rows.append((f"timer late, {name}", Spread.of(late)))
            p99 = late[int(len(late) * 0.99)]
            rows.append((f"timer late, {name}: p99", Spread.of([p99])))
            if freezes:
                rows.append(("freeze, 800 MB dense", Spread.of(freezes)))
                rows.append(("whole capture_to, 800 MB dense", Spread.of(totals)))
    finally:
        process.kill()
        process.wait()
    return rows


async def torn(folder: Path, *, quick: bool) -> list[Row]:
    """How far two places of one counter, 400 MB apart, differ in an image."""
    if shutil.which("gcc") is None:
        print("torn: skipped, there is no gcc", file=sys.stderr)
        return []
    program = folder / "twins"
    subprocess.run(
        ["gcc", "-O1", "-pthread", "-o", program, PROGRAMS / "twins.c"], check=True
    )
    status = folder / "status"
    status.write_bytes(bytes(4096))
    ours: list[float] = []
    theirs: list[float] = []
    with Sandbox("0.9.0", [str(program), str(status), "200"], (str(folder),)) as box:
        while not status.read_bytes()[0]:
            await asyncio.sleep(0.001)
        places = [
            int.from_bytes(status.read_bytes()[at : at + 8], "little")
            for at in (24, 32)
        ]
        for _ in range(3 if quick else 10):
            async with await sa.capture(box.pid, timeout=60) as checkpoint:
                ours.append(_difference(checkpoint, places))
            store = folder / "theirs"
            await asyncio.to_thread(box.checkpoint, str(store))
            theirs.append(_difference_in_files(store / "it", places))
    return [
        ("difference, sandlock-async", Spread.of(ours)),
        ("difference, sandlock 0.9.0", Spread.of(theirs)),
    ]


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


async def many(folder: Path, *, quick: bool) -> list[Row]:
    """Twenty small processes at once, in ms for all of them."""
    processes = [subprocess.Popen(["sleep", "600"]) for _ in range(20)]
    gate = threading.Event()
    rows: list[Row] = []
    try:
        for name, full in (("idle", False), ("full", True)):
            loop = asyncio.get_running_loop()
            jobs = [loop.run_in_executor(None, gate.wait) for _ in range(64 * full)]
            times: list[float] = []
            for _ in range(3 if quick else 10):
                began = time.perf_counter()
                await asyncio.gather(
                    *(
                        sa.capture_to(
                            process,
                            folder / str(process.pid),
                            replace=True,
                            durable=False,
                        )
                        for process in processes
                    )
                )
                times.append(1e3 * (time.perf_counter() - began))
            gate.set()
            await asyncio.gather(*jobs)
            gate.clear()
            rows.append((f"20 at once, default executor {name}", Spread.of(times)))
    finally:
        gate.set()
        for process in processes:
            process.kill()
            process.wait()
    return rows


Scenario = Callable[..., Coroutine[Any, Any, list[Row]]]
SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario for scenario in (tiny, busy, lag, torn, many)
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    arguments = parser.parse_args()
    machine = (
        f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, "
        f"Python {platform.python_version()}, sandlock-async {sa.__version__}"
    )
    lines = ["# Measured", "", f"{machine}. Median (p10-p90).", ""]
    results: dict[str, dict[str, object]] = {}
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    for name in arguments.names or SCENARIOS:
        scenario = SCENARIOS[name]
        with tempfile.TemporaryDirectory(prefix="sandlock-bench-", dir=base) as folder:
            rows = asyncio.run(scenario(Path(folder), quick=arguments.quick))
        lines += [f"## {name}", "", str(scenario.__doc__), ""]
        lines += ["| what | median (p10-p90) | rounds |", "| --- | --- | --- |"]
        lines += [f"| {what} | {spread} | {spread.rounds} |" for what, spread in rows]
        lines.append("")
        results[name] = {
            what: {
                "median": spread.median,
                "p10": spread.p10,
                "p90": spread.p90,
                "rounds": spread.rounds,
            }
            for what, spread in rows
        }
        print("\n".join(lines[-len(rows) - 4 :]))
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "results.md").write_text("\n".join(lines))
    content = {"machine": machine, "results": results}
    (arguments.output / "results.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Run the benchmarks: ``python -m benchmarks [NAME…] [--quick] [--output DIR]``."""

import argparse
import asyncio
import os
import platform
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import sandlock_async as sa
from benchmarks.lag import lag
from benchmarks.large import dense, growth, probe, sparse
from benchmarks.results import Result, write
from benchmarks.small import busy, many, sandboxes, tiny
from benchmarks.target import FAST
from benchmarks.torn import torn

Scenario = Callable[..., Coroutine[Any, Any, Result]]
SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        *(dense, sparse, probe, growth),
        *(tiny, busy, lag, torn, many, sandboxes),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, little memory"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    arguments = parser.parse_args()
    for name in arguments.names or SCENARIOS:
        scenario = SCENARIOS[name]
        machine = (
            f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, "
            f"Python {platform.python_version()}, sandlock-async {sa.__version__}, "
            f"load average before it {os.getloadavg()[0]:.1f}"
        )
        if arguments.quick:
            machine += ", quick: less memory, few rounds"
        with tempfile.TemporaryDirectory(prefix="sandlock-bench-", dir=FAST) as folder:
            result = asyncio.run(scenario(Path(folder), quick=arguments.quick))
        about = {"machine": machine, "doc": str(scenario.__doc__)}
        print(write(arguments.output, name, about, result))


if __name__ == "__main__":
    main()

"""The published releases of sandlock, each in a venv of its own."""

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from tests.conftest import PROGRAMS, missing, on_one_cpu, until

RELEASES = {"v1": "0.8.2", "v2": "0.8.6", "v3": "0.9.0"}
"""The release that writes each layout."""

READABLE = [
    path
    for path in ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/dev")
    if os.path.exists(path)
]

_CALLS = {  # asm/unistd_64.h; all others have the numbers of asm-generic/unistd.h
    "x86_64": {"read": 0, "pause": 34, "nanosleep": 35, "clock_nanosleep": 230},
}
_GENERIC = {"read": 63, "pause": 73, "nanosleep": 101, "clock_nanosleep": 115}


def syscall(name: str) -> str:
    """The number of a system call; pause(3) is a ppoll(2) where there is none."""
    return str(_CALLS.get(platform.machine(), _GENERIC)[name])


class Wheel:
    """A release, and what it says about checkpoints."""

    def __init__(self, version: str, python: Path, folder: Path) -> None:
        self.version = version
        self._python = python
        self._folder = folder
        self._answers = count()

    def do(self, job: str, **arguments: object) -> Any:
        """Have a job of tests/programs/wheel.py done; return its answer."""
        with self.keeping(job, **arguments) as answer:
            return answer

    @contextmanager
    def keeping(self, job: str, **arguments: object) -> Iterator[Any]:
        """Have a job done whose sandbox lives until the end of the ``with``."""
        path = self._folder / f"answer-{self.version}-{next(self._answers)}"
        command = [self._python, "-B", PROGRAMS / "wheel.py", job]
        with on_one_cpu():
            process = subprocess.Popen(
                [*command, json.dumps(arguments, default=str), path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        try:
            until(
                lambda: path.exists() or process.poll() is not None,
                f"{job} with sandlock {self.version}",
                seconds=60,
            )
            assert path.exists(), f"{job} ended with {process.returncode}"
            answer = json.loads(path.read_bytes())
            if "missing" in answer:
                missing(answer["missing"])
            assert "error" not in answer, answer["error"]
            yield answer["done"]
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def files(path: Path) -> dict[str, bytes]:
    """What sandlock knows of a checkpoint: everything but ``extended/``."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and "extended" not in file.parts
    }


def assert_same(left: dict[str, bytes], right: dict[str, bytes]) -> None:
    """Compare files; name those that differ, not their megabytes."""
    assert sorted(left) == sorted(right)
    assert [name for name in left if left[name] != right[name]] == []

"""A real sandbox of a given sandlock release, in a worker process of its own."""

import os
import subprocess
import sys
import venv
from pathlib import Path
from types import TracebackType
from typing import Self

CACHE = Path(
    os.environ.get("SANDLOCK_ASYNC_CACHE", Path.home() / ".cache" / "sandlock-async")
)
READABLE = [
    path
    for path in ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/dev")
    if Path(path).exists()
]

_WORKER = """
import sys, time
from sandlock import Sandbox
program, readable, writable = sys.argv[1].split("|"), sys.argv[2], sys.argv[3]
box = Sandbox(fs_readable=readable.split(":"),
              fs_writable=[path for path in writable.split(":") if path])
box.spawn(program)
print(box.pid, flush=True)
for line in sys.stdin:
    word, _, store = line.strip().partition(" ")
    began = time.perf_counter_ns()
    checkpoint = box.checkpoint()
    taken = time.perf_counter_ns()
    if store:
        checkpoint.save("it", store=store)
    print(taken - began, time.perf_counter_ns() - began, flush=True)
box.kill()
box.wait()
"""


def python_with(version: str) -> Path:
    """Return the python of a venv that has that sandlock, and make it if missing."""
    home = CACHE / f"sandlock-{version}-{sys.version_info[0]}{sys.version_info[1]}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, with_pip=True)
        pip = [python, "-m", "pip", "install", "-q", f"sandlock=={version}"]
        subprocess.run(pip, check=True)
        (home / "ready").touch()
    return python


class Sandbox:
    """A program in a sandbox of *version*; :meth:`checkpoint` is sandlock's own."""

    def __init__(
        self, version: str, program: list[str], writable: tuple[str, ...] = ()
    ) -> None:
        readable = [*READABLE, str(Path(program[0]).parent)]
        command = [
            str(python_with(version)),
            "-c",
            _WORKER,
            "|".join(program),
            ":".join(readable),
            ":".join(writable),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = int(self._line())

    def checkpoint(self, store: str = "") -> tuple[float, float]:
        """Return the milliseconds of checkpoint(), and with save() if *store*."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"checkpoint {store}\n")
        self._process.stdin.flush()
        taken, saved = self._line().split()
        return int(taken) / 1e6, int(saved) / 1e6

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

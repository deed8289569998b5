"""Real sandboxes of a given sandlock release, in a worker process of their own."""

import asyncio
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


def python_with(version: str) -> Path:
    """Return the python of a venv that has that sandlock, and make it if missing."""
    home = CACHE / f"sandlock-{version}-{sys.version_info[0]}{sys.version_info[1]}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-q", f"sandlock=={version}"]
        subprocess.run(pip, check=True)
        (home / "ready").touch()
    return python


class Sandboxes:
    """*count* sandboxes of *version*, all with the same program.

    :param beside_us: in a process that has our package, too
    """

    def __init__(
        self,
        version: str,
        program: list[str],
        *,
        readable: tuple[str, ...] = (),
        writable: tuple[str, ...] = (),
        count: int = 1,
        beside_us: bool = False,
    ) -> None:
        python = python_with(version)
        command = [
            sys.executable if beside_us else str(python),
            str(Path(__file__).with_name("worker.py")),
            "|".join(program),
            "|".join([*READABLE, str(Path(program[0]).parent), *readable]),
            "|".join(writable),
            str(count),
        ]
        folders = python.parent.parent.glob("lib/python*/site-packages")
        path = [str(Path(__file__).parent.parent), *map(str, folders)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": ":".join(path)} if beside_us else None,
        )
        self.pids = [int(pid) for pid in self._line().split()]

    async def checkpoint(self, store: Path, *, durable: bool) -> tuple[float, float]:
        """Return the milliseconds of checkpoint(), and of it with save()."""
        return await asyncio.to_thread(self._ask, f"one {store} {int(durable)}")

    async def checkpoint_all(self, store: Path, threads: int) -> float:
        """Return the milliseconds of checkpoint() and save() of all of them."""
        return (await asyncio.to_thread(self._ask, f"all {store} {threads}"))[1]

    async def capture_all(self, store: Path) -> float:
        """Return the milliseconds of our captures of all of them, in their process."""
        return (await asyncio.to_thread(self._ask, f"ours {store} 0"))[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def _ask(self, question: str) -> tuple[float, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        taken, total = self._line().split()
        return int(taken) / 1e6, int(total) / 1e6

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("sandlock's worker has failed; see its traceback above")
        return line

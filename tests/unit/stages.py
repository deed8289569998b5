"""Places to put a checkpoint, and stages on their way there."""

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandlock_async.image import layout
from sandlock_async.store.stage import Stage

GOLDEN = Path(__file__).parent.parent / "golden" / "v1" / "sleep"
SOMEBODY = 65534


@contextmanager
def staged(destination: Path, *, replace: bool = True) -> Iterator[Stage]:
    opened = Stage(destination, replace=replace, durable=False)
    try:
        opened.write(layout.INFO, b"{}")
        yield opened
    finally:
        opened.discard()


@contextmanager
def as_somebody() -> Iterator[Path]:
    """Give up root's right to every file, on this thread; yield a folder of ours."""
    libc = ctypes.CDLL(None)
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() != 0:
            yield Path(name)
            return
        os.chown(name, SOMEBODY, SOMEBODY)
        libc.setfsuid(SOMEBODY)
        try:
            yield Path(name)
        finally:
            libc.setfsuid(0)


@contextmanager
def mounted(*arguments: object) -> Iterator[None]:
    command = ["mount", *map(str, arguments)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(arguments[-1])], check=True)

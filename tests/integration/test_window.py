"""The frozen window of a small process never lets the GIL go.

Given up, it may take a busy application milliseconds to give it back.
"""

import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

import sandlock_async as sa
from sandlock_async.freeze import ThreadGroup
from sandlock_async.kernel import files, libc, pagemap, process_vm
from sandlock_async.snapshot import window

pytestmark = pytest.mark.usefixtures("nothing_left")

HARMLESS = {"monotonic", "getpid", "fspath", "fsencode", "fsdecode", "strerror"}
RELEASING = [
    (pagemap, "_ioctl"),
    (process_vm, "_readv"),
    (files, "_pread"),
    (libc, "_usleep"),
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is called between the first interrupt and the last detach, and releases it."""
    found: list[str] = []

    def watch(_: FrameType, event: str, function: object) -> None:
        module = getattr(function, "__module__", None)
        name = getattr(function, "__name__", "")
        if event == "c_call" and module in ("posix", "time") and name not in HARMLESS:
            found.append(f"{module}.{name}")

    frozen = ThreadGroup._interrupt_new
    thaw = ThreadGroup.thaw

    def interrupt(self: ThreadGroup) -> None:
        sys.setprofile(watch)
        frozen(self)

    def end(self: ThreadGroup) -> bool:
        result = thaw(self)
        sys.setprofile(None)
        return result

    monkeypatch.setattr(ThreadGroup, "_interrupt_new", interrupt)
    monkeypatch.setattr(ThreadGroup, "thaw", end)
    inside = window._read

    def read(subject: window.Subject) -> object:
        tracer = threading.get_ident()
        with pytest.MonkeyPatch.context() as patch:
            for module, name in RELEASING:
                function = getattr(module, name)

                def release(*arguments: Any, function: Any = function) -> Any:
                    if threading.get_ident() == tracer:
                        found.append("let the GIL go")
                    return function(*arguments)

                patch.setattr(module, name, release)
            return inside(subject)

    monkeypatch.setattr(window, "_read", read)
    yield found
    sys.setprofile(None)


async def test_of_a_process_that_sleeps(
    sleeper: "subprocess.Popen[bytes]", calls: list[str]
) -> None:
    async with await sa.capture(sleeper) as checkpoint:
        assert checkpoint.process_state.memory_data

    assert calls == []


async def test_of_python_with_a_pipe(calls: list[str]) -> None:
    # Without a handler: a clone that is asked for those may have to be waited for.
    code = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "pipe = os.pipe(); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        async with await sa.capture(process) as checkpoint:
            assert len(checkpoint.fd_table) >= 5
        process.communicate()

    assert calls == []

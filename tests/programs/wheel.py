"""What a test asks a released sandlock for: one job, run by the python of its venv.

Called with the job, its arguments as JSON, and where the answer goes, as JSON too.
A job with ``keep`` lets its sandbox be until it is sent SIGTERM or left by the test. No
stream is used: the sandboxed programs would hold it.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

from sandlock import Sandbox
from sandlock._sdk import Checkpoint


class CannotConfineError(Exception):
    """Sandboxes cannot be had on this machine."""


def resave(store: str, other: str, names: list[str]) -> dict[str, object]:
    """Load checkpoints, say what they show, and save them elsewhere."""
    shown = {}
    for name in names:
        checkpoint = Checkpoint.load(name, store=store)
        state = checkpoint.app_state
        shown[name] = [checkpoint.name, None if state is None else state.hex()]
        checkpoint.save(name, store=other)
    return shown


def listed(store: str) -> list[str]:
    """Say which checkpoints there are."""
    return Checkpoint.list(store=store)


def refused(store: str, names: list[str]) -> dict[str, str | None]:
    """Say how the loading of each ends."""
    how = {}
    for name in names:
        try:
            Checkpoint.load(name, store=store)
        except Exception as error:  # noqa: BLE001
            how[name] = f"{type(error).__name__}: {error}"
        else:
            how[name] = None
    return how


def capture(store: str, cases: dict[str, Any], **program: Any) -> None:
    """Capture a program, once for each sandbox in *cases*."""
    for name, options in cases.items():
        with capture_and_keep(store, name, options, **program):
            pass


@contextlib.contextmanager
def capture_and_keep(
    store: str,
    name: str,
    options: dict[str, Any],
    argv: list[str],
    syscall: str,
    app_state: str | None = None,
) -> Iterator[int]:
    """Capture a program that waits in *syscall*, and let it go on; say its pid."""
    box = Sandbox(**options)
    try:
        box.spawn(argv)
    except RuntimeError as error:
        raise CannotConfineError(error) from error
    with ended(box):
        wait_for(box.pid, os.path.basename(argv[0]), syscall)
        state = None if app_state is None else bytes.fromhex(app_state)
        checkpoint = box.checkpoint(
            **({} if state is None else {"save_fn": lambda: state})
        )
        checkpoint.save(name, store=store)
        yield box.pid


def restore(store: str, name: str, options: dict[str, Any]) -> object:
    """Restore a checkpoint and say how its program ends: exit status and signal."""
    box = Sandbox(**options)
    box.restore_interactive(Checkpoint.load(name, store=store))
    pid, results = box.pid, []
    # A wait in native code, which no deadline interrupts and no kill() goes with.
    waiter = threading.Thread(target=lambda: results.append(box.wait()), daemon=True)
    waiter.start()
    waiter.join(20)
    if not results:
        os.kill(pid, signal.SIGKILL)
        return "still running"
    return [results[0].exit_code, results[0].signal]


@contextlib.contextmanager
def restore_and_keep(
    store: str, name: str, options: dict[str, Any]
) -> Iterator[list[Any]]:
    """Restore a checkpoint and let its program go on; say its pid."""
    box = Sandbox(**options)
    box.restore_interactive(Checkpoint.load(name, store=store))
    with ended(box):
        yield [box.pid, [[skipped.fd, skipped.path] for skipped in box.restore_skipped]]


@contextlib.contextmanager
def ended(box: Sandbox) -> Iterator[None]:
    try:
        yield
    finally:
        if box.pid is not None:
            box.kill()
            box.wait()


def wait_for(pid: int, comm: str, syscall: str) -> None:
    """Return when the program runs and waits: not for the supervisor, but by itself."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with open(f"/proc/{pid}/comm") as name, open(f"/proc/{pid}/syscall") as call:
            if name.read() == comm[:15] + "\n" and call.read().split()[0] == syscall:
                return
        time.sleep(0.001)
    raise TimeoutError(f"{comm} does not wait in system call {syscall}")


def main(job: str, arguments: str, path: str) -> None:
    parent = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        done = globals()[job](**json.loads(arguments))
        if not hasattr(done, "__enter__"):
            answer(path, {"done": done})
            return
        with done as kept:
            answer(path, {"done": kept})
            while os.getppid() == parent:
                time.sleep(0.01)  # a signal just before a pause(2) is lost
    except CannotConfineError as error:
        answer(path, {"missing": f"a kernel that sandlock can confine with: {error}"})
    except Exception:  # noqa: BLE001
        answer(path, {"error": traceback.format_exc()})


def answer(path: str, content: dict[str, object]) -> None:
    with open(path + ".new", "w") as file:
        json.dump(content, file)
    os.rename(path + ".new", path)


if __name__ == "__main__":
    main(*sys.argv[1:])

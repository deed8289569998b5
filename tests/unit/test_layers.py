"""The layout shows the architecture: imports point down only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandlock_async as sa

PACKAGE = Path(sa.__file__).parent

# From the top to the bottom; a module imports from lower rooms, and from its own.
ROOMS = [
    ("__main__",),
    ("cli",),
    ("__init__",),
    ("many",),
    ("capture", "convert", "verify", "check"),
    ("outlook", "features"),
    ("delivery", "sights"),
    ("tracing", "checkpoint", "trial"),
    ("spilling", "reaping", "idempotence"),
    ("store", "waiters"),
    ("company",),
    ("workers", "budget"),
    ("alone", "turns"),
    ("arguments", "completion", "courtesy", "tracer", "events"),
    ("scene",),
    ("snapshot",),
    ("failure", "descendants"),
    ("target",),
    ("freeze", "injection"),
    ("denial", "plan", "clock", "image", "threads"),
    ("selection", "strategy"),
    ("procfs", "arch", "report", "preflight"),
    ("model", "errors"),
    ("kernel",),
]
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}
PURE = (
    "model",
    "errors",
    "events",
    "report",
    "preflight",
    "plan",
    "selection",
    "strategy",
    "procfs",
    "arch",
)
PURE_FOLDERS = ("image/bincode/", "image/policy/")
ASYNC = (
    "many",
    "capture",
    "convert",
    "verify",
    "check",
    "delivery",
    "sights",
    "tracing",
    "spilling",
    "checkpoint",
    "completion",
    "courtesy",
    "workers",
    "alone",
    "turns",
    "budget",
    "waiters",
    "store",
    "cli",
)

MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    here = room_of(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "sandlock_async" or len(parts) < 2 or parts[1] not in RANK:
            continue
        there = parts[1]
        assert there == here or RANK[there] > RANK[here], f"{here} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_touch_only_what_they_may(path: Path) -> None:
    here = room_of(path)
    roots = {name.partition(".")[0] for name in imports(path)}
    if here in PURE or name_of(path).startswith(PURE_FOLDERS):
        assert not roots & {"os", "ctypes", "anyio", "asyncio", "aiofiles"}
    if here != "kernel":
        assert "ctypes" not in roots
    if here not in ASYNC:
        assert not roots & {"anyio", "asyncio", "aiofiles"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_file_names_of_an_image_stay_in_its_layout(path: Path) -> None:
    if name_of(path) in ("image/layout.py", "image/v1.py"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in ("meta.json", "policy.dat", "app_state.bin")


def test_public_names_are_documented() -> None:
    for name in dir(sa):
        thing = getattr(sa, name)
        if not name.startswith("_") and isinstance(thing, type):
            assert thing.__doc__, name

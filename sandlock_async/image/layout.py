"""Every file name and version number of an image, once."""

from collections.abc import Iterable

META = "meta.json"
"""Name and version; written last: a directory without it is no checkpoint."""

POLICY = "policy.dat"
APP_STATE = "app_state.bin"

INFO = "process/info.json"
FDS = "process/fds.json"
MEMORY_MAP = "process/memory_map.json"
MAIN_THREAD = "process/threads/0.bin"
MAIN_THREAD_FP = "process/threads/fpregs.bin"
MEMORY = "process/memory"

EXTENDED = "extended"
EXTENDED_PROCESS = "extended/process.json"
EXTENDED_MEMORY = "extended/memory"
OPERATION = "extended/operation.json"
"""Which capture it is from, if its caller has named it."""

MANIFEST = "extended/manifest.json"
"""Size and checksum of every other file of the image."""

DIRECTORIES: tuple[str, ...] = (
    "process",
    "process/threads",
    MEMORY,
    EXTENDED,
    EXTENDED_MEMORY,
)
"""Every folder of an image, parents first."""

FILES = (
    META,
    POLICY,
    APP_STATE,
    INFO,
    FDS,
    MEMORY_MAP,
    MAIN_THREAD,
    MAIN_THREAD_FP,
    EXTENDED_PROCESS,
)
"""Every file of an image but those of memory, :data:`META` first."""

MAX_METADATA_BYTES = 64 << 20
"""A metadata file beyond that is not one: 65,530 mappings take 30 MiB."""

_MAX_BYTES = {POLICY: 16 << 20, MAIN_THREAD: 64 << 10, MAIN_THREAD_FP: 1 << 20}
"""Those that cannot have as many: a hole, which costs its owner nothing, would be
read all the same. The largest register set known here has some 20 KiB."""

MAX_POLICIES_BYTES = 32 << 20
"""Of all descendants together: they are held at a time."""

CHILDREN = "children"
"""Descendants captured with a process, each a checkpoint under its pid."""


def child_name(pid: int, name: str) -> str:
    """Return the name of file *name* of the descendant *pid*; ``""`` for its folder."""
    return f"{CHILDREN}/{pid}/{name}" if name else f"{CHILDREN}/{pid}"


def child_folders(pid: int) -> tuple[str, ...]:
    """Return the folders of the descendant *pid*, parents first."""
    inner = tuple(child_name(pid, folder) for folder in DIRECTORIES)
    return (CHILDREN, child_name(pid, ""), *inner)


def is_folder(name: str) -> bool:
    """Whether an image has a folder of that name."""
    first, _, rest = name.partition("/")
    if first != CHILDREN:
        return name in DIRECTORIES
    pid, _, inner = rest.partition("/")
    return not rest or (pid.isdigit() and (not inner or inner in DIRECTORIES))


def is_memory_file(name: str) -> bool:
    """Whether the file *name* of an image, or of a descendant in it, holds memory."""
    return name.rpartition("/")[0].endswith((MEMORY, EXTENDED_MEMORY))


def folders_of_children(names: Iterable[str]) -> list[str]:
    """Return the folders of the descendants whose files have these *names*."""
    pids = {name.split("/")[1] for name in names if name.startswith(CHILDREN + "/")}
    return [f"{CHILDREN}/{pid}/" for pid in sorted(pids)]


def max_bytes(name: str, *, of_child: bool = False) -> int:
    """Return how long a metadata file may be.

    :param of_child: whether it is a descendant's, by its name there; of its
        ancestor's image, the name alone tells
    """
    if name.startswith(CHILDREN + "/"):
        name, of_child = name.split("/", 2)[-1], True
    if of_child and name == APP_STATE:
        return 0  # that of the tree is the ancestor's
    return _MAX_BYTES.get(name, MAX_METADATA_BYTES)


V1, V2, V3 = None, 2, 3
"""``version`` in meta.json: absent in v1."""

EXTENDED_VERSION = 1

"""Every file name and version number of an image, once."""

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

DIRECTORIES: tuple[str, ...] = (
    "process",
    "process/threads",
    MEMORY,
    EXTENDED,
    EXTENDED_MEMORY,
)
"""Every folder of an image, parents first."""

CHILDREN = "children"
"""Descendants captured with a process, each a checkpoint under its pid."""


def child_name(pid: int, name: str) -> str:
    """Return the name of file *name* of the descendant *pid*; ``""`` for its folder."""
    return f"{CHILDREN}/{pid}/{name}" if name else f"{CHILDREN}/{pid}"


def child_folders(pid: int) -> tuple[str, ...]:
    """Return the folders of the descendant *pid*, parents first."""
    inner = tuple(child_name(pid, folder) for folder in DIRECTORIES)
    return (CHILDREN, child_name(pid, ""), *inner)


V1, V2, V3 = None, 2, 3
"""``version`` in meta.json: absent in v1."""

EXTENDED_VERSION = 1

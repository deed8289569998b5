"""A disk that loses power: what is done to a folder, and what may be left of that.

Nothing is on the disk for certain but what has been synced. A file has the content of
its last fsync, or any that it had since, or zeros; a name is made, moved or removed for
certain when its folder has been synced, and may or may not be before, in any order. One
rename is one step.
"""

import os
import random
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import aiofiles
import pytest

from sandlock_async.kernel.rename import Rename, renameat2
from sandlock_async.store import stage

Tree = bytes | tuple[tuple[str, "Tree"], ...]
"""A file, or a folder with what is in it by name."""


@dataclass(frozen=True, slots=True)
class Named:
    """Names in folders, and what they mean from now on: nothing, if None."""

    edits: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Written:
    """A file, and what is in it from now on."""

    file: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Synced:
    """A file or a folder that is on the disk."""

    node: int
    is_folder: bool


Operation = Named | Written | Synced
Reaches = Callable[[int], bool]
"""Whether an operation has reached the disk that did not have to."""

Choose = Callable[[list[bytes]], bytes]
"""Which of the contents that a file may have it has."""


class Disk:
    """The folder *root*: how it was, and what has been done to it since.

    :ivar operations: in their order
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.operations: list[Operation] = []
        self._lock = threading.RLock()
        self._numbers = count()
        self._nodes: dict[tuple[int, int], int] = {}
        self._folders: dict[int, dict[str, int]] = {}
        self._contents: dict[int, bytes] = {}
        self._root = self._read(root)

    def know(self, path: Path) -> None:
        """Take what is in another folder of this disk as written, and not synced."""
        for file in path.rglob("*"):
            if file.is_file():
                node = self._number(file.stat())
                self._contents[node] = b""
                self.operations.append(Written(node, file.read_bytes()))

    def tree(self, path: Path) -> Tree | None:
        """Return what is at *path* now, of the real disk."""
        if path.is_dir():
            inner = ((it.name, self.tree(it)) for it in path.iterdir())
            return tuple(sorted((n, it) for n, it in inner if it is not None))
        return path.read_bytes() if path.is_file() else None

    # -- what may be left ------------------------------------------------------

    def crashes(
        self, path: Path, done: int, *, without: Collection[int] = ()
    ) -> Iterator[Tree | None]:
        """Yield what may be at *path* after a crash after *done* operations.

        :param without: numbers of operations that are taken as not done
        """
        operations = [
            (number, this)
            for number, this in enumerate(self.operations[:done])
            if number not in without
        ]
        synced = {
            this.node: number for number, this in operations if isinstance(this, Synced)
        }
        named = [this for this in operations if isinstance(this[1], Named)]
        open_ends = [
            number
            for number, this in named
            if isinstance(this, Named)
            and any(synced.get(folder, -1) < number for folder, _, _ in this.edits)
        ]
        contents = self._possible_contents(operations, synced)
        unsure = set(open_ends)
        chance = random.Random(done)

        def state(reaches: Reaches, choose: Choose) -> Tree | None:
            folders = {node: dict(names) for node, names in self._folders.items()}
            for number, this in named:
                assert isinstance(this, Named)
                if number in unsure and not reaches(number):
                    continue
                for folder, name, node in this.edits:
                    names = folders.setdefault(folder, {})
                    if node is None:
                        names.pop(name, None)
                    else:
                        names[name] = node
            return self._found(path, folders, contents, choose)

        for choose in (_oldest, _newest, _zeros):
            yield state(lambda _: True, choose)
            yield state(lambda _: False, choose)
        for one in open_ends:
            yield state({one}.__contains__, _oldest)
            yield state((unsure - {one}).__contains__, _newest)
        for _ in range(4):
            some = {number for number in open_ends if chance.random() < 0.5}
            yield state(some.__contains__, chance.choice)

    def _possible_contents(
        self, operations: list[tuple[int, Operation]], synced: dict[int, int]
    ) -> dict[int, list[bytes]]:
        found = {node: [content] for node, content in self._contents.items()}
        for number, this in operations:
            if isinstance(this, Written):
                before = found.setdefault(this.file, [b""])
                if number < synced.get(this.file, -1):
                    before.clear()
                before.append(this.content)
        return found

    def _found(
        self,
        path: Path,
        folders: dict[int, dict[str, int]],
        contents: dict[int, list[bytes]],
        choose: Choose,
    ) -> Tree | None:
        def grown(node: int) -> Tree:
            if node in folders:
                names = folders[node].items()
                return tuple(sorted((name, grown(inner)) for name, inner in names))
            return choose(contents.get(node, [b""]))

        node: int | None = self._root
        for name in path.relative_to(self.root).parts:
            node = folders.get(node, {}).get(name) if node is not None else None
        if node is None:
            return None
        folders.setdefault(node, {})
        return grown(node)

    # -- what is done ----------------------------------------------------------

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what this process does to the folder inside."""
        with pytest.MonkeyPatch.context() as patch:
            self._watch_names(patch)
            self._watch_contents(patch)
            yield

    def _watch_names(self, patch: pytest.MonkeyPatch) -> None:
        open_, mkdir, link, rename = os.open, os.mkdir, os.link, os.rename

        def opened(
            path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
        ) -> int:
            if not flags & os.O_CREAT:
                return open_(path, flags, mode, dir_fd=dir_fd)
            with self._lock:
                is_new = self._node(path, dir_fd) is None
                fd = open_(path, flags, mode, dir_fd=dir_fd)
                if is_new:
                    self._made(path, dir_fd)
                return fd

        def made(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            with self._lock:
                mkdir(path, mode, dir_fd=dir_fd)
                node = self._made(path, dir_fd)
                if node is not None:
                    self._folders[node] = {}

        def linked(
            old: Any,
            new: Any,
            *,
            src_dir_fd: int | None = None,
            dst_dir_fd: int | None = None,
            follow_symlinks: bool = True,
        ) -> None:
            with self._lock:
                link(
                    old,
                    new,
                    src_dir_fd=src_dir_fd,
                    dst_dir_fd=dst_dir_fd,
                    follow_symlinks=follow_symlinks,
                )
                node = self._node(new, dst_dir_fd)
                assert node is not None, "a link to a file that is not of this disk"
                self._named((new, dst_dir_fd, node))

        def removed(remove: Callable[..., None]) -> Callable[..., None]:
            def wrapped(path: Any, *, dir_fd: int | None = None) -> None:
                with self._lock:
                    edit = self._edit(path, dir_fd, None)
                    remove(path, dir_fd=dir_fd)
                    if edit is not None:
                        self.operations.append(Named((edit,)))

            return wrapped

        def renamed(old: Any, new: Any) -> None:
            with self._lock:
                node = self._node(old, None)
                rename(old, new)
                self._named((old, None, None), (new, None, node))

        def renamed_by(old: Path, new: Path, flags: Rename) -> None:
            with self._lock:
                node, other = self._node(old, None), self._node(new, None)
                renameat2(old, new, flags)
                self._named((old, None, other), (new, None, node))

        patch.setattr(os, "open", opened)
        patch.setattr(os, "mkdir", made)
        patch.setattr(os, "link", linked)
        patch.setattr(os, "unlink", removed(os.unlink))
        patch.setattr(os, "rmdir", removed(os.rmdir))
        patch.setattr(os, "rename", renamed)
        patch.setattr(stage, "renameat2", renamed_by)

    def _watch_contents(self, patch: pytest.MonkeyPatch) -> None:
        fsync, open_async = os.fsync, aiofiles.open

        def then_read(write: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(fd: int, *arguments: Any) -> Any:
                with self._lock:
                    result = write(fd, *arguments)
                    self._written(fd)
                    return result

            return wrapped

        def synced(fd: int) -> None:
            with self._lock:
                fsync(fd)
                found = os.fstat(fd)
                node = self._nodes.get((found.st_dev, found.st_ino))
                if node is not None:
                    is_folder = node in self._folders
                    self.operations.append(Synced(node, is_folder=is_folder))

        disk = self

        class Recorded:
            """What aiofiles does is done in C, where it cannot be seen."""

            def __init__(self, file: Any) -> None:
                self._file = file

            def __getattr__(self, name: str) -> Any:
                return getattr(self._file, name)

            async def truncate(self, size: int) -> int:
                return await self._then_read(self._file.truncate(size))

            async def write(self, content: Any) -> int:
                return await self._then_read(self._file.write(content))

            async def _then_read(self, work: Any) -> int:
                result: int = await work
                disk._written(self._file.fileno())
                return result

        async def opened(*arguments: Any, **named: Any) -> Recorded:
            return Recorded(await open_async(*arguments, **named))

        patch.setattr(os, "write", then_read(os.write))
        patch.setattr(os, "pwrite", then_read(os.pwrite))
        patch.setattr(os, "ftruncate", then_read(os.ftruncate))
        patch.setattr(os, "fsync", synced)
        patch.setattr(aiofiles, "open", opened)

    def _read(self, path: Path) -> int:
        node = self._number(path.stat())
        if path.is_dir():
            inner = {it.name: self._read(it) for it in path.iterdir()}
            self._folders[node] = inner
        else:
            self._contents[node] = path.read_bytes()
        return node

    def _number(self, found: os.stat_result) -> int:
        return self._nodes.setdefault((found.st_dev, found.st_ino), next(self._numbers))

    def _node(self, path: Any, dir_fd: int | None) -> int | None:
        try:
            found = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return self._nodes.get((found.st_dev, found.st_ino))

    def _made(self, path: Any, dir_fd: int | None) -> int | None:
        edit = self._edit(path, dir_fd, None)
        if edit is None:
            return None
        # The number of one that has been removed may be in use again.
        found = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        self._nodes.pop((found.st_dev, found.st_ino), None)
        node = self._number(found)
        self.operations.append(Named(((*edit[:2], node),)))
        return node

    def _named(self, *names: tuple[Any, int | None, int | None]) -> None:
        edits = [self._edit(*name) for name in names]
        self.operations.append(Named(tuple(edit for edit in edits if edit is not None)))

    def _edit(
        self, path: Any, dir_fd: int | None, node: int | None
    ) -> tuple[int, str, int | None] | None:
        above, name = os.path.split(os.fspath(path))
        folder = self._node(above or ".", dir_fd)
        return None if folder is None else (folder, name, node)

    def _written(self, fd: int) -> None:
        with self._lock:
            found = os.fstat(fd)
            node = self._nodes.get((found.st_dev, found.st_ino))
            if node is not None:
                content = Path(f"/proc/self/fd/{fd}").read_bytes()
                self.operations.append(Written(node, content))


def plant(tree: Tree, path: Path) -> None:
    """Put what may be left on the real disk."""
    if isinstance(tree, bytes):
        path.write_bytes(tree)
        path.chmod(0o600)
        return
    path.mkdir(mode=0o700, exist_ok=True)
    for name, inner in tree:
        plant(inner, path / name)


def _oldest(contents: list[bytes]) -> bytes:
    return contents[0]


def _newest(contents: list[bytes]) -> bytes:
    return contents[-1]


def _zeros(contents: list[bytes]) -> bytes:
    return contents[0] if len(contents) == 1 else bytes(len(contents[-1]))

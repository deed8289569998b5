"""What a stage replaces, and that nothing is left of it."""

import errno
import os
import resource
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

import sandlock_async as sa
from sandlock_async.image import layout
from sandlock_async.kernel.rename import Rename, renameat2
from sandlock_async.store import removal, stage, stream
from sandlock_async.store.removal import STAGE_PREFIX
from sandlock_async.store.stage import Stage
from tests.unit.stages import GOLDEN, staged


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "it")
    return tmp_path / "it"


def test_a_checkpoint_is_replaced(checkpoint: Path) -> None:
    with staged(checkpoint) as opened:
        opened.commit(b"new")

    assert (checkpoint / layout.META).read_bytes() == b"new"
    assert os.listdir(checkpoint.parent) == ["it"]


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "symlink"])
def test_what_appears_meanwhile_is_put_back(kind: str, tmp_path: Path) -> None:
    precious = tmp_path / "it"
    with staged(precious) as opened:
        if "folder" in kind:
            precious.mkdir()
        if kind == "folder":
            (precious / "thesis.txt").touch()
        elif kind == "file":
            precious.touch()
        elif kind == "symlink":
            precious.symlink_to(tmp_path)
        before = precious.lstat().st_ino

        with pytest.raises(sa.StoreError, match="is no checkpoint"):
            opened.commit(b"{}")

    assert precious.lstat().st_ino == before
    assert kind != "folder" or os.listdir(precious) == ["thesis.txt"]
    assert os.listdir(tmp_path) == ["it"]


@pytest.mark.parametrize("lacking", [layout.META, layout.INFO, None])
def test_a_folder_that_is_no_checkpoint(checkpoint: Path, lacking: str | None) -> None:
    if lacking is None:
        (checkpoint / "source.py").touch()
    else:
        (checkpoint / lacking).unlink()

    with pytest.raises(sa.StoreError, match="is no checkpoint") as caught:
        Stage(checkpoint, replace=True, durable=False)

    assert caught.value.help
    assert os.listdir(checkpoint.parent) == ["it"]


def test_a_folder_left_at_a_stages_name_is_kept(tmp_path: Path) -> None:
    left = tmp_path / f"{STAGE_PREFIX}0"
    left.mkdir()
    (left / "thesis.txt").touch()

    with staged(tmp_path / "it") as opened:
        opened.commit(b"{}")

    assert os.listdir(left) == ["thesis.txt"]


def test_stages_of_other_users_are_theirs(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a folder away")
    left = tmp_path / f"{STAGE_PREFIX}0"
    left.mkdir()
    os.chown(left, 65534, 65534)

    with staged(tmp_path / "it") as opened:
        opened.commit(b"{}")

    assert sorted(os.listdir(tmp_path)) == [left.name, "it"]


def test_a_stage_that_is_very_deep_stops_nobody(tmp_path: Path) -> None:
    left = tmp_path / f"{STAGE_PREFIX}0"
    (left / "process").mkdir(parents=True)
    depth = 0
    fd = os.open(left / "process", os.O_RDONLY)
    while depth < 1500:
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd, depth = inner, depth + 1
    os.close(fd)
    try:
        with staged(tmp_path / "it") as opened:
            opened.commit(b"{}")
        assert sorted(os.listdir(tmp_path)) == [left.name, "it"]
    finally:
        subprocess.run(["rm", "-rf", left], check=True)


@pytest.mark.parametrize("there", [False, True], ids=["new", "replaced"])
def test_a_stage_is_committed_while_another_one_looks_for_abandoned_ones(
    there: bool, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not there:
        shutil.rmtree(checkpoint)

    def open_folder(name: str, dir_fd: int) -> int:
        fd = open_for_real(name, dir_fd)
        if name == opened.path.name:
            monkeypatch.undo()
            opened.commit(b"new")
        return fd

    open_for_real = removal.open_folder
    with staged(checkpoint) as opened:
        monkeypatch.setattr(removal, "open_folder", open_folder)
        with staged(checkpoint.with_name("other")):
            pass

    assert (checkpoint / layout.META).read_bytes() == b"new"
    assert (checkpoint / layout.INFO).exists()
    assert os.listdir(checkpoint.parent) == ["it"]


def test_another_one_commits_between_two_renames(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = checkpoint.rename(checkpoint.with_name("aside"))

    def rename(old: Path, new: Path, flags: Rename) -> None:
        try:
            renameat2(old, new, flags)
        except FileNotFoundError:
            aside.rename(checkpoint)
            raise

    with staged(checkpoint) as opened:
        monkeypatch.setattr(stage, "renameat2", rename)
        opened.commit(b"new")

    assert (checkpoint / layout.META).read_bytes() == b"new"
    assert os.listdir(checkpoint.parent) == ["it"]


def test_what_was_replaced_is_cleaned_up_by_another_one(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(old: Path, new: Path, flags: Rename) -> None:
        renameat2(old, new, flags)
        monkeypatch.undo()
        with staged(checkpoint.with_name("other")):
            pass

    with staged(checkpoint) as opened:
        monkeypatch.setattr(stage, "renameat2", rename)
        opened.commit(b"new")

    assert (checkpoint / layout.META).read_bytes() == b"new"
    assert os.listdir(checkpoint.parent) == ["it"]


def test_what_was_replaced_is_being_cleaned_up(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.open(checkpoint, os.O_RDONLY)
    try:
        with staged(checkpoint) as opened:
            removal.try_lock(fd)
            (checkpoint / layout.META).unlink()

            def removed(_: float) -> None:
                shutil.rmtree(opened.path)

            monkeypatch.setattr(time, "sleep", removed)
            opened.commit(b"new")
    finally:
        os.close(fd)

    assert (checkpoint / layout.META).read_bytes() == b"new"
    assert os.listdir(checkpoint.parent) == ["it"]


def test_what_cannot_be_put_back_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(old: Path, new: Path, flags: Rename) -> None:
        renameat2(old, new, flags)
        monkeypatch.setattr(stage, "renameat2", broken)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with staged(tmp_path / "it") as opened:
        (tmp_path / "it").mkdir()
        (tmp_path / "it" / "thesis.txt").touch()
        monkeypatch.setattr(stage, "renameat2", rename)
        with pytest.raises(sa.StoreError, match=f"it is at {opened.path}"):
            opened.commit(b"new")

    assert (tmp_path / "it" / layout.META).read_bytes() == b"new"
    assert os.listdir(opened.path) == ["thesis.txt"]


# -- what is left --------------------------------------------------------------


def test_without_descriptors_the_stage_goes_all_the_same(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    with staged(tmp_path / "it") as opened:
        opened.write(f"{layout.MEMORY}/0.bin", b"x")
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
        try:
            try:
                while True:
                    held.append(os.dup(0))
            except OSError:
                pass
            with pytest.raises(OSError, match="Too many open files"):
                opened.commit(b"{}")
            opened.discard()
        finally:
            for fd in held:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert os.listdir(tmp_path) == []


def test_a_stage_that_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(stage, "open_folder", refused)

    with pytest.raises(sa.StoreError, match="Too many open files") as caught:
        Stage(tmp_path / "new" / "it", replace=False, durable=False)

    assert "ulimit" in caught.value.help
    assert os.listdir(tmp_path) == []


def test_when_the_last_sync_fails_the_checkpoint_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    opened = Stage(tmp_path / "it", replace=False, durable=True)
    fsync = os.fsync

    def failing(fd: int) -> None:
        fsync(fd)
        if (tmp_path / "it").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(sa.StoreError, match="is written, but"):
        opened.commit(b"{}")
    opened.discard()

    assert os.listdir(tmp_path) == ["it"]
    assert (tmp_path / "it" / layout.META).exists()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_stage_that_is_exchanged_for_something_else(tmp_path: Path) -> None:
    with staged(tmp_path / "it") as opened:
        opened.path.rename(tmp_path / "moved")
        opened.path.mkdir()
        (opened.path / "thesis.txt").touch()
        name = opened.path.name

    assert os.listdir(tmp_path / "moved") == []
    assert os.listdir(tmp_path / name) == ["thesis.txt"]


@pytest.mark.parametrize("umask", [0, 0o077, 0o777], ids=oct)
def test_a_memory_file_is_ours_alone(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        fd = stream._open(tmp_path / "0.bin")
    finally:
        os.umask(before)
    try:
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
        (tmp_path / "1.bin").hardlink_to(tmp_path / "0.bin")
        with pytest.raises(FileExistsError):
            stream._open(tmp_path / "0.bin")
    finally:
        os.close(fd)

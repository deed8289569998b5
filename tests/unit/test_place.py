"""Where no checkpoint is put, and why not."""

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

import sandlock_async as sa
from sandlock_async.image import layout
from sandlock_async.store import stage
from sandlock_async.store.place import Place
from sandlock_async.store.removal import STAGE_PREFIX
from sandlock_async.store.stage import Stage
from tests.unit.stages import GOLDEN, as_somebody, mounted, staged


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "it")
    return tmp_path / "it"


def test_a_folder_we_may_not_read() -> None:
    with as_somebody() as folder:
        folder.chmod(0o300)
        try:
            with pytest.raises(sa.StoreError, match="Permission denied") as caught:
                Stage(folder / "it", replace=False, durable=True)
        finally:
            folder.chmod(0o700)

        assert "read and write" in caught.value.help
        assert os.listdir(folder) == []


def test_a_folder_that_everybody_may_write_to(tmp_path: Path) -> None:
    drop = tmp_path / "drop"
    drop.mkdir()
    drop.chmod(0o777)

    with pytest.raises(sa.StoreError, match="everybody") as caught:
        Stage(drop / "it", replace=False, durable=False)
    drop.chmod(0o777 | stat.S_ISVTX)
    with staged(drop / "it") as opened:
        opened.commit(b"{}")

    assert "chmod" in caught.value.help
    assert os.listdir(drop) == ["it"]


@pytest.mark.parametrize("there", ["drop/a/it", "drop/a/b/it", "link/a/it"])
def test_a_way_that_everybody_may_change(there: str, tmp_path: Path) -> None:
    drop = tmp_path / "drop"
    drop.mkdir()
    drop.chmod(0o777)
    (tmp_path / "link").symlink_to("drop")

    for find in (
        lambda: Stage(tmp_path / there, replace=False, durable=False),
        Place(tmp_path / there, replace=False).look,
    ):
        with pytest.raises(sa.StoreError, match="everybody") as caught:
            find()
        assert "chmod" in caught.value.help
        assert os.listdir(drop) == []


@pytest.mark.parametrize("place", [f"{STAGE_PREFIX}mine", f"{STAGE_PREFIX}mine/it"])
def test_names_of_what_is_cleaned_up(place: str, tmp_path: Path) -> None:
    for find in (
        lambda: Stage(tmp_path / place, replace=False, durable=False),
        Place(tmp_path / place, replace=False).look,
    ):
        with pytest.raises(sa.StoreError, match="not finished") as caught:
            find()
        assert caught.value.help
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["/proc/it", "/sys/kernel/it"])
def test_file_systems_that_hold_no_files(place: str) -> None:
    for find in (
        lambda: Stage(Path(place), replace=False, durable=False),
        Place(Path(place), replace=False).look,
    ):
        with pytest.raises(sa.StoreError, match="holds no files") as caught:
            find()
        assert caught.value.help


def test_a_folder_in_which_nothing_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(name: object, dir_fd: int) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(stage, "make_folder", make)
    with pytest.raises(sa.StoreError, match="No such file"):
        Stage(tmp_path / "it", replace=False, durable=False)


def test_a_way_that_leaves_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(sa.CheckpointExistsError):
        Place(tmp_path / "missing" / ".." / "there", replace=False).look()
    assert Place(tmp_path / "missing" / ".." / "new", replace=False).look()
    assert os.listdir(tmp_path) == ["there"]


@pytest.mark.parametrize("target", ["nowhere", "link"], ids=["dangling", "loop"])
def test_a_parent_that_leads_nowhere(target: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(target)

    with pytest.raises(sa.StoreError, match="leads nowhere") as caught:
        Stage(tmp_path / "link" / "it", replace=False, durable=False)

    assert caught.value.help
    assert os.listdir(tmp_path) == ["link"]


def test_a_mount_point(checkpoint: Path) -> None:
    with mounted("--bind", checkpoint, checkpoint):
        with pytest.raises(sa.StoreError, match="mount point") as caught:
            Stage(checkpoint, replace=True, durable=False)

    assert caught.value.help


def test_a_lower_layer_of_an_overlay(tmp_path: Path) -> None:
    with mounted("-t", "tmpfs", "tmpfs", tmp_path):
        lower, upper, work, merged = (tmp_path / name for name in "luwm")
        for folder in (upper, work, merged):
            folder.mkdir()
        shutil.copytree(GOLDEN, lower / "old")
        options = f"redirect_dir=off,lowerdir={lower},upperdir={upper},workdir={work}"
        with mounted("-t", "overlay", "overlay", "-o", options, merged):
            with pytest.raises(sa.StoreError, match="lower layer") as caught:
                Stage(merged / "old", replace=True, durable=False)
            for content in (b"new", b"newer"):
                with staged(merged / "new") as opened:
                    opened.commit(content)

            assert caught.value.help
            assert (merged / "new" / layout.META).read_bytes() == b"newer"
            assert (merged / "old" / layout.META).exists()
            assert sorted(os.listdir(merged)) == ["new", "old"]

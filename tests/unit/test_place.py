"""Where no checkpoint is put, and why not."""

import os
import shutil
import stat
from pathlib import Path

import pytest

import sandlock_async as sa
from sandlock_async.image import layout
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

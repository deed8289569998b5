"""Which checkpoints there are, and what they take."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import sandlock_async as sa
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.image.reader import read_image
from sandlock_async.store import listing
from sandlock_async.store.listing import find_checkpoints, measure
from tests.hostility import Watch
from tests.unit.stages import GOLDEN, as_somebody


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "it")
    return tmp_path / "it"


def test_a_link_to_itself_is_no_checkpoint(checkpoint: Path) -> None:
    (checkpoint.parent / "loop").symlink_to("loop")

    assert find_checkpoints(checkpoint.parent) == ["it"]


@pytest.mark.parametrize("read", [find_checkpoints, measure, read_image])
@pytest.mark.parametrize("name", ["loop", "x" * 300], ids=["loop", "too long"])
def test_a_path_that_cannot_be_opened(
    read: Callable[[Path], object], name: str, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to("loop")

    with pytest.raises(sa.ImageError, match="cannot read") as caught:
        read(tmp_path / name)

    assert caught.value.path == tmp_path / name


def test_an_image_we_may_not_read() -> None:
    with as_somebody() as folder:
        (folder / "it").mkdir(0)
        with pytest.raises(sa.ImageError, match="Permission denied") as caught:
            measure(folder / "it")

    assert "account" in caught.value.help


def test_what_is_in_no_folder_of_an_image_is_not_looked_at(
    checkpoint: Path, tmp_path: Path
) -> None:
    expected = measure(checkpoint)
    (tmp_path / "outside").mkdir()
    (checkpoint / "children").symlink_to(tmp_path / "outside")
    fd = os.open(checkpoint / "process", os.O_RDONLY)
    for _ in range(1500):  # deeper than what recurses can go
        os.mkdir("deep", dir_fd=fd)
        inner = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    watch = Watch()
    watch.add(tmp_path / "outside")

    found = measure(checkpoint)

    assert watch.seen() == []
    watch.close()
    link = (checkpoint / "children").lstat().st_size
    assert found.total_bytes == expected.total_bytes + link
    subprocess.run(["rm", "-rf", checkpoint], check=True)  # it recurses, too


def test_measured_while_it_is_replaced(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = measure(checkpoint)
    once = listing._measure

    def replaced(directory: ImageDirectory) -> listing.Sizes:
        monkeypatch.setattr(listing, "_measure", once)
        checkpoint.rename(checkpoint.with_name("old"))
        shutil.copytree(GOLDEN, checkpoint)
        shutil.rmtree(checkpoint.with_name("old"))
        return once(directory)

    monkeypatch.setattr(listing, "_measure", replaced)

    assert measure(checkpoint) == expected

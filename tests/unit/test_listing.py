"""Which checkpoints there are, and what they take."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import sandlock_async as sa
from sandlock_async.image.reader import read_image
from sandlock_async.store import listing
from sandlock_async.store.listing import find_checkpoints, measure
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


def test_measured_while_it_is_replaced(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = measure(checkpoint)
    once = listing._measure

    def replaced(fd: int) -> listing.Sizes:
        monkeypatch.setattr(listing, "_measure", once)
        checkpoint.rename(checkpoint.with_name("old"))
        shutil.copytree(GOLDEN, checkpoint)
        shutil.rmtree(checkpoint.with_name("old"))
        return once(fd)

    monkeypatch.setattr(listing, "_measure", replaced)

    assert measure(checkpoint) == expected

"""What a preflight is put together from: space, places, reasons, estimates."""

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import sandlock_async as sa
from sandlock_async import denial, features
from sandlock_async.arch import MACHINES
from sandlock_async.check import look_at_place
from sandlock_async.kernel import pagemap, process_vm
from sandlock_async.model import Described, Device, EventFd, MemFd, Pipe, Socket
from sandlock_async.plan import Pages, plan_segments
from sandlock_async.preflight import Check, Preflight
from sandlock_async.procfs.maps import parse_maps
from sandlock_async.selection import select
from sandlock_async.snapshot.fd_unheld import why_unheld
from sandlock_async.store.place import Place
from sandlock_async.store.refusals import store_error
from sandlock_async.store.space import Room, find_room, require_space
from sandlock_async.store.stage import Stage
from sandlock_async.strategy import Strategy, estimate_freeze_ms
from sandlock_async.trial import tried
from tests.unit.stages import GOLDEN, as_somebody, mounted, staged


def test_one_no_is_a_no() -> None:
    fine = Check(name="this", ok=True, reason="it is there")
    assert Preflight(checks=(fine,)).ok
    assert not Preflight(checks=(fine, replace(fine, ok=False))).ok


# -- places --------------------------------------------------------------------


def places(tmp_path: Path) -> dict[str, Path]:
    """Make places of every kind, most of which will not do."""
    shutil.copytree(GOLDEN, tmp_path / "checkpoint")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").touch()
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to("not/there")
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop").chmod(0o777)
    return {
        "new": tmp_path / "new",
        "deep": tmp_path / "a" / "b" / "c",
        "checkpoint": tmp_path / "checkpoint",
        "other": tmp_path / "home",
        "file": tmp_path / "file",
        "below a file": tmp_path / "file" / "it",
        "dangling": tmp_path / "nowhere" / "it",
        "open to all": tmp_path / "drop" / "it",
        "name": tmp_path / ("x" * 300) / "it",
    }


@pytest.mark.parametrize("replacing", [False, True])
def test_a_look_says_what_a_stage_does(replacing: bool, tmp_path: Path) -> None:
    for name, place in places(tmp_path).items():
        before = sorted(tmp_path.rglob("*"))
        (looked, *rest) = look_at_place(place, None, replace=replacing)
        assert sorted(tmp_path.rglob("*")) == before, name
        refusal: sa.StoreError | None = None
        try:
            Stage(place, replace=replacing, durable=False).discard()
        except sa.StoreError as error:
            refusal = error
        assert looked.ok == (refusal is None), (name, looked)
        assert [this.name for this in rest] == ["disk_space"] * looked.ok
        if refusal is not None:
            assert (looked.reason, looked.help) == (refusal.message, refusal.help)


def test_a_folder_we_may_not_write_to() -> None:
    with as_somebody() as folder:
        folder.chmod(0o500)
        try:
            for place in (folder / "it", folder / "deep" / "it"):
                with pytest.raises(PermissionError):
                    Place(place, replace=False).look()
            (looked,) = look_at_place(folder / "it", None, replace=False)
        finally:
            folder.chmod(0o700)

    assert "Permission denied" in looked.reason
    assert looked.help


def test_a_file_system_that_is_read_only(tmp_path: Path) -> None:
    with mounted("-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path):
        (looked,) = look_at_place(tmp_path / "it", None, replace=False)

    assert "Read-only" in looked.reason
    assert "not mounted read-only" in looked.help


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for place in places(tmp_path).values():
        look_at_place(place, 1, replace=True)
    assert os.listdir("/proc/self/fd") == before


def test_space_is_that_of_the_file_system(tmp_path: Path) -> None:
    with mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path):
        for place in (tmp_path / "it", tmp_path / "deep" / "er" / "it"):
            free = Place(place, replace=False).look().bytes
            assert free == find_room(tmp_path).bytes == 64 << 10
            _, enough = look_at_place(place, free, replace=False)
            _, little = look_at_place(place, free + 1, replace=False)
            assert enough.ok
            assert not little.ok
            assert f"{free + 1} bytes needed, {free} free" in little.reason
            assert little.help
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", [("ramfs",), ("tmpfs", "-o", "size=0")])
def test_a_file_system_that_does_not_tell(
    kind: tuple[str, ...], tmp_path: Path
) -> None:
    with mounted("-t", *kind, "none", tmp_path):
        (tmp_path / "it").mkdir(mode=0o700)
        place, space = look_at_place(tmp_path / "it" / "it", 1 << 40, replace=False)
        with staged(tmp_path / "it" / "it") as opened:
            opened.require(1 << 40)

    assert place.ok, place
    assert space.ok
    assert "does not tell" in space.reason


def test_files_are_counted_too(tmp_path: Path) -> None:
    with mounted("-t", "tmpfs", "-o", "size=1m,nr_inodes=20", "tmpfs", tmp_path):
        _, space = look_at_place(tmp_path / "it", 1, replace=False, inodes=30)
        with staged(tmp_path / "it") as opened:
            free = find_room(tmp_path).inodes
            assert free is not None
            opened.require(1, free)
            with pytest.raises(sa.NoSpaceError, match="inodes needed") as caught:
                opened.require(1, free + 1)
            for number in range(free):
                opened.write(f"{number}", b"")
            with pytest.raises(OSError, match="No space") as full:
                opened.write("one more", b"")
            told = store_error(full.value, tmp_path / "it", 1)

    assert not space.ok
    assert (caught.value.unit, caught.value.free) == ("inodes", free)
    assert "files" in caught.value.help
    assert "0 inodes free" in told.message


def test_files_take_whole_blocks(tmp_path: Path) -> None:
    room = Room(bytes=10 << 16, inodes=None, block=1 << 16)
    require_space(tmp_path, needed=1 << 16, room=room, inodes=9)
    with pytest.raises(sa.NoSpaceError):
        require_space(tmp_path, needed=1 << 16, room=room, inodes=10)


def test_an_image_holds_pages_of_files_too() -> None:
    mappings = parse_maps(
        b"1000-5000 rw-p 00000000 fe:01 9    /lib/it\n"
        b"9000-b000 rw-p 00000000 00:00 0 \n"
    )
    pages = Pages(([0x1000, 0x9000], [0x2000, 0xA000], [True, True], []))

    plan = plan_segments(select(mappings, {}), {}, pages)

    assert plan.populated_bytes == 0x2000
    assert plan.image_bytes == 0x5000


# -- reasons -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "privileged", "told"),
    [
        (None, False, "no Yama"),
        (0, False, "nothing"),
        (1, False, "only descendants"),
        (1, True, "nothing"),
        (2, False, "without CAP_SYS_PTRACE"),
        (2, True, "nothing"),
        (3, True, "for good"),
    ],
)
def test_yama(
    scope: int | None,
    privileged: bool,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tmp_path / "ptrace_scope"
    if scope is not None:
        place.write_text(f"{scope}\n")
    monkeypatch.setattr(denial, "_YAMA", str(place))
    monkeypatch.setattr(denial, "_is_privileged", lambda _: privileged)

    reason, cure = denial.describe_yama()

    assert told in reason
    assert bool(cure) == ("Yama" in reason and "no Yama" not in reason)


def test_who_may_be_accessed(sleeper: "subprocess.Popen[bytes]") -> None:
    assert process_vm.may_access(sleeper.pid)
    with pytest.raises(ProcessLookupError):
        process_vm.may_access(1 << 22)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_an_attempt_that_is_refused(number: int) -> None:
    def attempt() -> str:
        raise OSError(number, os.strerror(number))

    assert tried("it", attempt, help="do this") == Check(
        name="it", ok=False, reason=os.strerror(number), help="do this"
    )
    assert tried("it", attempt, needed=False).ok


def test_for_want_of_something_the_cure_is_that() -> None:
    def attempt() -> str:
        raise OSError(errno.EAGAIN, "cannot start a thread")

    assert "ulimit -u" in tried("it", attempt, help="do this").help


def test_without_page_scans_it_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    monkeypatch.setattr(pagemap, "check", refused)

    found = {this.name: this for this in features.try_features()}["pagemap_scan"]

    assert found.ok
    assert "one by one" in found.reason


def test_without_cat_there_is_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert all(this.ok for this in features.try_features())


def test_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(sys, "executable", "/not/there")

    found = {this.name: this for this in features.try_features()}

    assert not found["ptrace"].ok
    assert "no child could be started" in found["ptrace"].reason
    assert found["ptrace"].help


def test_every_machine_has_a_userfaultfd() -> None:
    assert all(machine.userfaultfd for machine in MACHINES.values())


# -- descriptors ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (EventFd(count=1), ""),
        (Device(block=False, rdev=os.makedev(1, 3)), ""),
        (Device(block=False, rdev=os.makedev(10, 200)), "device (10:200)"),
        (Device(block=True, rdev=os.makedev(1, 3)), "device (1:3)"),
        (MemFd(name="it"), "memfd"),
        (Pipe(inode=1, read=True, write=False, content=True), ""),
        (Pipe(inode=1, read=True, write=False), "another process"),
        (Socket(inode=1, family="unix", content=True), ""),
        (Socket(inode=1, family="inet", type="stream", state="listen"), ""),
        (Socket(inode=1, family="inet", type="stream", remote="a:1"), "stream) to a:1"),
        (Socket(inode=1), "not known"),
        (Socket(inode=1, family="unix", in_flight=2), "2 descriptors in flight"),
    ],
)
def test_what_an_image_cannot_hold(what: Described, told: str) -> None:
    reason = why_unheld(what)

    assert told in reason
    assert bool(reason) == bool(told)


# -- the freeze ----------------------------------------------------------------


def freeze(strategy: Strategy, **facts: int) -> float:
    usual = {"expected_bytes": 0, "uncopied_bytes": 0, "threads": 1}
    return estimate_freeze_ms(strategy, **(usual | facts))


def test_the_freeze_that_is_expected() -> None:
    large = 800_000_000
    assert freeze(Strategy.DIRECT) == pytest.approx(0.3)
    assert 150 < freeze(Strategy.DIRECT, expected_bytes=large) < 300
    assert 10 < freeze(Strategy.FORK, expected_bytes=large) < 20
    assert freeze(Strategy.FORK, expected_bytes=large, uncopied_bytes=large) > 150
    assert freeze(Strategy.FORK, threads=9) - freeze(Strategy.FORK) == pytest.approx(
        0.8
    )

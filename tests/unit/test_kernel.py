"""The bindings: sizes and numbers as the kernel has them, answers as they should be."""

import ctypes
import mmap
import os
import signal
import subprocess
from array import array
from pathlib import Path

import pytest

from sandlock_async.kernel import files, process_vm, signals
from sandlock_async.kernel.libc import iovec
from sandlock_async.kernel.pagemap import PAGEMAP_SCAN, Pagemap, pm_scan_arg
from sandlock_async.kernel.ptrace import siginfo_t
from sandlock_async.kernel.rename import Rename, renameat2
from tests.conftest import until


def test_sizes() -> None:
    assert ctypes.sizeof(pm_scan_arg) == 96
    assert PAGEMAP_SCAN == 0xC0606610
    assert ctypes.sizeof(iovec) == 16
    assert ctypes.sizeof(siginfo_t) == 128
    assert ctypes.sizeof(files.statx) == 256
    assert signals.sigaction.sa_flags.offset == 136


def test_scan_and_entries_agree() -> None:
    memory = mmap.mmap(-1, 64 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    end = address + 64 * mmap.PAGESIZE
    for page in (0, 1, 5, 63):
        memory[page * mmap.PAGESIZE] = 1

    with Pagemap(os.getpid()) as scan, Pagemap(os.getpid(), scan=False) as entries:
        found = scan.scan([(address, end)])
        assert found == entries.scan([(address, end)])

    edges = zip(found.starts, found.ends, strict=True)
    pages = [
        ((low - address) // mmap.PAGESIZE, (high - low) // mmap.PAGESIZE)
        for low, high in edges
    ]
    assert pages == [(0, 2), (5, 1), (63, 1)]
    assert all(found.owned)


def test_readv_of_ourselves_stops_at_a_hole() -> None:
    source = ctypes.create_string_buffer(b"0123456789")
    target = ctypes.create_string_buffer(16)
    base = ctypes.addressof(source)

    count = process_vm.readv(
        os.getpid(),
        array("Q", [base + 2, 3, 8, 4]),
        ctypes.addressof(target),
        hold_gil=True,
    )

    assert (count, target.value) == (3, b"234")
    with pytest.raises(OSError, match="process_vm_readv"):
        process_vm.readv(
            os.getpid(), array("Q", [8, 4]), ctypes.addressof(target), hold_gil=False
        )


def test_files_read_as_os_does() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        proc = f"/proc/{process.pid}"
        reading = Path(f"{proc}/syscall")  # it starts up no longer
        until(
            lambda: (
                Path(f"{proc}/comm").read_text() == "cat\n"
                and reading.read_text().startswith(("0 ", "63 "))
            ),
            "cat to read",
        )
        assert files.read_file(f"{proc}/maps") == Path(f"{proc}/maps").read_bytes()
        assert files.read_link(f"{proc}/fd/0") == os.readlink(f"{proc}/fd/0").encode()
        names = sorted(int(name) for name in os.listdir(f"{proc}/fd"))
        assert files.list_numbers(f"{proc}/fd") == names
        assert files.read_record(f"{proc}/fdinfo/0") == files.read_file(
            f"{proc}/fdinfo/0"
        )
        assert files.count_threads(process.pid) == 1
        assert files.count_fds(process.pid) in (0, len(names))
    with pytest.raises(FileNotFoundError):
        files.list_numbers(f"{proc}/task")


def test_rename_never_replaces_or_swaps(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    (one / "mark").touch()

    with pytest.raises(FileExistsError):
        renameat2(one, other, Rename.NOREPLACE)
    renameat2(one, other, Rename.EXCHANGE)

    assert (other / "mark").exists()
    assert not (one / "mark").exists()


def test_the_sigchld_handler_stays() -> None:
    def handler(*_: object) -> None:
        pass

    before = signal.signal(signal.SIGCHLD, handler)
    try:
        signals.silence_child_stops(silent=True)
        assert signals.child_stops_silenced()
        assert signal.getsignal(signal.SIGCHLD) is handler
        signals.silence_child_stops(silent=False)
        assert not signals.child_stops_silenced()
    finally:
        signal.signal(signal.SIGCHLD, before)

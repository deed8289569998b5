"""The parsers, on the bytes that the kernel prints."""

import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection
from hypothesis import given
from hypothesis import strategies as st

from sandlock_async.model import Limit
from sandlock_async.procfs.elf import (
    HEADER_BYTES,
    find_notes,
    parse_build_id,
    parse_elf_machine,
)
from sandlock_async.procfs.fdinfo import parse_fdinfo
from sandlock_async.procfs.limits import parse_limits
from sandlock_async.procfs.maps import parse_maps, parse_vm_flags, split_smaps
from sandlock_async.procfs.stat import parse_mm_addresses, parse_stat
from sandlock_async.procfs.status import parse_status
from sandlock_async.procfs.syscall import Syscall, parse_syscall

MAPS = rb"""55d0-55d1 r--p 00000000 fe:01 1234    /usr/bin/a program (deleted)
7f00-7f02 rw-p 00001000 00:00 0
7f02-7f03 rw-s 00000000 00:01 77 /memfd:a\012b (deleted)
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_maps() -> None:
    program, anonymous, memfd, vsyscall = parse_maps(MAPS)

    assert program.map.path == "/usr/bin/a program (deleted)"
    assert (program.device, program.inode) == ((0xFE, 1), 1234)
    assert program.map.private
    assert not program.map.writable
    assert anonymous.map.path is None
    assert anonymous.map.offset == 0x1000
    assert not anonymous.file_backed
    assert memfd.map.path == "/memfd:a\\012b (deleted)"
    assert memfd.raw_path == b"/memfd:a\nb (deleted)"
    assert vsyscall.map.is_special
    assert vsyscall.map.end == 0xFFFFFFFFFF601000


def test_a_path_that_is_not_utf8() -> None:
    (mapping,) = parse_maps(b"1000-2000 rw-p 00000000 fe:01 5 /tmp/\xff\n")

    assert mapping.map.path == "/tmp/\ufffd"
    assert mapping.raw_path == b"/tmp/\xff"


def test_a_path_is_exact_to_the_byte() -> None:
    padding = b"                   "
    lines = [
        b"1000-2000 rw-p 0 fe:01 5 %b%b\n" % (padding, path)
        for path in (b"/tmp/space ", rb"/tmp/\101", rb"/tmp/a\012b")
    ]

    space, backslash, newline = parse_maps(b"".join(lines))

    assert (space.map.path, space.raw_path) == ("/tmp/space", b"/tmp/space ")
    assert backslash.raw_path == rb"/tmp/\101"
    assert newline.raw_path == b"/tmp/a\nb"


def test_vm_flags() -> None:
    smaps = b"1000-2000 rw-p 00000000 00:00 0 \nRss: 4 kB\nVmFlags: rd wr um \n"

    assert parse_vm_flags(smaps) == {0x1000: frozenset({"rd", "wr", "um"})}


def test_smaps_hold_what_maps_say() -> None:
    fields = b"Size: 4 kB\nVmFlags: %b \n"
    lines = MAPS.splitlines(keepends=True)
    flags = (b"rd mr", b"rd wr", b"rd wr sh", b"ex")
    smaps = b"".join(
        line + fields % these for line, these in zip(lines, flags, strict=True)
    )

    maps, found = split_smaps(smaps)

    assert maps == MAPS
    assert found == [frozenset(these.decode().split()) for these in flags]
    assert split_smaps(b"") == (b"", [])


def test_stat_of_a_program_with_an_odd_name() -> None:
    fields = b"S 7 " + b" ".join(b"%d" % n for n in range(5, 53))

    stat = parse_stat(b"42 (a) b (c) " + fields)

    assert (stat.comm, stat.state, stat.parent) == ("a) b (c", "S", 7)
    assert (stat.flags, stat.num_threads, stat.start_time) == (9, 20, 22)


@pytest.mark.parametrize(
    ("state", "flags", "pending", "dead", "dying"),
    [
        (b"S", 0x400000, 0, False, False),
        (b"S", 0, 1 << 14, False, False),
        (b"Z", 0, 0, True, True),
        (b"R", 0x4, 0, False, True),
        (b"R", 0x400, 0, False, True),
        (b"D", 0, 1 << 8, False, True),
    ],
)
def test_stat_of_a_thread_that_is_about_to_end(
    state: bytes, flags: int, pending: int, dead: bool, dying: bool
) -> None:
    fields = [b"%d" % n for n in range(4, 53)]
    fields[9 - 4], fields[31 - 4] = b"%d" % flags, b"%d" % pending

    stat = parse_stat(b"42 (name) " + state + b" " + b" ".join(fields))

    assert (stat.is_dead, stat.is_dying) == (dead, dying)


def test_fdinfo() -> None:
    content = b"pos:\t5\nflags:\t02100002\nmnt_id:\t15\neventfd-count:      5\n"

    assert parse_fdinfo(content) == (0o2100002, 5)


def test_fdinfo_of_a_position_in_the_upper_half() -> None:
    content = b"pos:\t-10485760\nflags:\t0100000\n"

    assert parse_fdinfo(content) == (0o100000, (1 << 64) - 10485760)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"running\n", None),
        (b"-1 0x7ff 0x7f0\n", None),
        (b"61 0xaef 0x7f 0x0 0x0 0x0 0x1 0x7f 0x7e\n", (61, 0xAEF)),
    ],
    ids=["running", "outside", "wait4"],
)
def test_syscall(content: bytes, expected: tuple[int, int] | None) -> None:
    call = parse_syscall(content)

    assert (call and (call.number, call.arguments[0])) == expected
    assert call is None or isinstance(call, Syscall)


def test_elf_machine() -> None:
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e\x00"

    assert parse_elf_machine(header) == (True, 62)
    assert parse_elf_machine(b"#!/bin/sh") is None


@given(st.binary(max_size=200))
def test_garbage_is_a_value_error(content: bytes) -> None:
    for parse in (parse_maps, parse_vm_flags, parse_stat, parse_fdinfo, parse_syscall):
        try:
            parse(content)
        except ValueError:
            continue
    parse_status(content)
    parse_elf_machine(content)


def test_mm_addresses() -> None:
    fields = b" ".join(b"%d" % number for number in range(4, 53))

    found = parse_mm_addresses(b"5 (a) b) S " + fields)

    assert found["start_code"] == 26
    assert found["start_stack"] == 28
    assert (found["start_data"], found["env_end"]) == (45, 51)


def test_limits() -> None:
    content = (
        b"Limit                     Soft Limit           Hard Limit           Units\n"
        b"Max cpu time              unlimited            unlimited            seconds\n"
        b"Max open files            1024                 524288               files\n"
    )

    assert parse_limits(content) == (
        Limit(name="Max cpu time", soft=None, hard=None),
        Limit(name="Max open files", soft=1024, hard=524288),
    )


def test_build_id_of_a_program() -> None:
    content = Path(sys.executable).resolve().read_bytes()

    ids = [
        parse_build_id(content[offset : offset + size])
        for offset, size in find_notes(content[:HEADER_BYTES])
    ]

    with open(sys.executable, "rb") as file:
        sections = ELFFile(file).iter_sections()
        notes = [
            note
            for one in sections
            if isinstance(one, NoteSection) and one["sh_flags"]
            for note in one.iter_notes()
        ]
    expected = [note["n_desc"] for note in notes if note["n_type"] == "NT_GNU_BUILD_ID"]
    assert [found.hex() for found in ids if found] == expected


@given(st.binary(max_size=200))
def test_notes_of_garbage(content: bytes) -> None:
    find_notes(b"\x7fELF\x02\x01" + content)
    parse_build_id(content)

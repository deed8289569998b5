"""The first bytes of ``/proc/PID/exe``: for which machine, and which build it is."""

import struct

_HEADER_BYTES = 20
_ELFCLASS64 = 2
_ELFDATA2MSB = 2
_EHDR_BYTES = 64
_PHDR_BYTES = 56
_PT_NOTE = 4
_NT_GNU_BUILD_ID = 3

HEADER_BYTES = 4096
"""Of a file that are enough to find its notes, as linkers lay programs out."""


def parse_elf_machine(header: bytes) -> tuple[bool, int] | None:
    """Return ``(is_64_bit, e_machine)``, or None if it is no ELF header, ``elf(5)``."""
    if len(header) < _HEADER_BYTES or header[:4] != b"\x7fELF":
        return None
    machine = struct.unpack(">H" if header[5] == _ELFDATA2MSB else "<H", header[18:20])
    return header[4] == _ELFCLASS64, machine[0]


def find_notes(header: bytes) -> list[tuple[int, int]]:
    """Return offset and size of every ``PT_NOTE`` of a 64-bit program, ``elf(5)``.

    :param header: the first bytes of the file; headers beyond them are not found
    """
    if parse_elf_machine(header) is None or header[4] != _ELFCLASS64:
        return []
    order = ">" if header[5] == _ELFDATA2MSB else "<"
    if len(header) < _EHDR_BYTES:
        return []
    (first,) = struct.unpack_from(f"{order}Q", header, 32)
    size, count = struct.unpack_from(f"{order}HH", header, 54)
    found: list[tuple[int, int]] = []
    for at in range(first, first + size * count, size or 1):
        if size < _PHDR_BYTES or at + _PHDR_BYTES > len(header):
            break
        kind, _, offset, _, _, length = struct.unpack_from(f"{order}IIQQQQ", header, at)
        if kind == _PT_NOTE:
            found.append((offset, length))
    return found


def parse_build_id(notes: bytes) -> bytes:
    """Return the build-id among the notes of a program; empty if there is none."""
    position = 0
    while position + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, position)
        name = notes[position + 12 : position + 12 + name_size]
        start = position + 12 + (name_size + 3) // 4 * 4
        if kind == _NT_GNU_BUILD_ID and name == b"GNU\0":
            return notes[start : start + size]
        position = start + (size + 3) // 4 * 4
    return b""

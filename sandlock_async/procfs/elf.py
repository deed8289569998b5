"""The first bytes of ``/proc/PID/exe``: which machine the program is for."""

import struct

_HEADER_BYTES = 20
_ELFCLASS64 = 2
_ELFDATA2MSB = 2


def parse_elf_machine(header: bytes) -> tuple[bool, int] | None:
    """Return ``(is_64_bit, e_machine)``, or None if it is no ELF header, ``elf(5)``."""
    if len(header) < _HEADER_BYTES or header[:4] != b"\x7fELF":
        return None
    machine = struct.unpack(">H" if header[5] == _ELFDATA2MSB else "<H", header[18:20])
    return header[4] == _ELFCLASS64, machine[0]

"""Instructions that a program has anyway, and that can be borrowed. Pure, x86-64."""

import re
from dataclasses import dataclass

from sandlock_async.arch.x86_64 import Register

# syscall; ret. Or with xor of registers with themselves between the two, as the vDSO
# has it; not of rsp.
_SYSCALL = re.compile(rb"\x0f\x05\xc3")
_CLEARING_SYSCALL = re.compile(
    rb"\x0f\x05(?:[\x40\x45\x48\x4d]?[\x31\x33][\xc0\xc9\xd2\xdb\xed\xf6\xff])+\xc3"
)
# mov $15, %rax; syscall: the restorer that every C library gives rt_sigaction(2).
_SIGRETURN = re.compile(rb"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05")
# mov %rax, displacement(%register); ret, for a register that a system call keeps.
_STORE = re.compile(
    rb"(?:\x48\x89[\x02\x06]|\x49\x89[\x00\x01\x02]"
    rb"|\x48\x89[\x42\x46].|\x49\x89[\x40\x41\x42].)\xc3",
    re.DOTALL,
)
_STORE_BASES = {
    (0x48, 2): Register.RDX,
    (0x48, 6): Register.RSI,
    (0x49, 0): Register.R8,
    (0x49, 1): Register.R9,
    (0x49, 2): Register.R10,
}
LONGEST = 32
"""Bytes that any of them takes."""


@dataclass(frozen=True, slots=True)
class Gadget:
    """Code in a program.

    :ivar code: the bytes there
    """

    address: int
    code: bytes

    def moved(self, distance: int) -> "Gadget":
        """Return the same code elsewhere."""
        return Gadget(self.address + distance, self.code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gadgets:
    """What of them a program has.

    :ivar syscall: makes a system call, and returns
    :ivar sigreturn: calls ``rt_sigreturn(2)``
    :ivar store: stores ``rax``, and returns
    """

    syscall: Gadget | None = None
    sigreturn: Gadget | None = None
    store: Gadget | None = None

    @property
    def complete(self) -> bool:
        """Whether none could be better."""
        return self.usable and self.can_store

    @property
    def usable(self) -> bool:
        """Whether there is what a clone needs."""
        return self.syscall is not None and self.sigreturn is not None

    @property
    def can_store(self) -> bool:
        """Whether the result of a call can be stored: its registers last until then."""
        return (
            self.store is not None
            and self.syscall is not None
            and _SYSCALL.fullmatch(self.syscall.code) is not None
        )

    def present(self) -> list[Gadget]:
        """Return those that there are."""
        return [this for this in (self.syscall, self.sigreturn, self.store) if this]

    def moved(self, distance: int) -> "Gadgets":
        """Return the same elsewhere."""
        return Gadgets(
            syscall=self.syscall and self.syscall.moved(distance),
            sigreturn=self.sigreturn and self.sigreturn.moved(distance),
            store=self.store and self.store.moved(distance),
        )

    def or_else(self, others: "Gadgets") -> "Gadgets":
        """Return these, and *others* where they are lacking or worse."""
        syscall = self.syscall
        if syscall is None or (
            not _SYSCALL.fullmatch(syscall.code)
            and others.syscall is not None
            and _SYSCALL.fullmatch(others.syscall.code)
        ):
            syscall = others.syscall or syscall
        return Gadgets(
            syscall=syscall,
            sigreturn=self.sigreturn or others.sigreturn,
            store=self.store or others.store,
        )


def find_gadgets(code: bytes) -> Gadgets:
    """Return what is in *code*, as if it lay at address 0."""
    return Gadgets(
        syscall=_first(_SYSCALL, code) or _first(_CLEARING_SYSCALL, code),
        sigreturn=_first(_SIGRETURN, code),
        store=_first(_STORE, code),
    )


def stores_to(code: bytes) -> tuple[Register, int]:
    """Return the register, and the displacement, that a store gadget stores by."""
    prefix, _, operand = code[:3]
    base = _STORE_BASES[prefix, operand & 7]
    displacement = int.from_bytes(code[3:-1], "little", signed=True)
    return base, displacement


def _first(pattern: "re.Pattern[bytes]", code: bytes) -> Gadget | None:
    found = pattern.search(code)
    return None if found is None else Gadget(found.start(), found.group())

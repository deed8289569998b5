"""The frames that ``rt_sigreturn(2)`` takes a thread's state from. Pure, x86-64.

A thread that "returns" through such a frame gets the registers, the signal mask and
the floating-point state that are written there: ``struct rt_sigframe``, made of a
return address and a ``ucontext`` (``asm/sigframe.h``, ``asm/sigcontext.h``).
"""

import struct
from collections.abc import Sequence

from sandlock_async.arch.x86_64 import Register

FRAME_BYTES = 312
"""A return address, and a ``struct ucontext`` of 304 bytes."""

ALL_SIGNALS = (1 << 64) - 1

_UC_FLAGS = 7  # UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
# The kernel sets the alternate stack from the frame and ignores an error: with flags
# that there are not it stays as it is.
_NO_ALTSTACK_FLAGS = 0x7F7F

_SAVED = (
    Register.R8,
    Register.R9,
    Register.R10,
    Register.R11,
    Register.R12,
    Register.R13,
    Register.R14,
    Register.R15,
    Register.RDI,
    Register.RSI,
    Register.RBP,
    Register.RBX,
    Register.RDX,
    Register.RAX,
    Register.RCX,
    Register.RSP,
    Register.RIP,
    Register.EFLAGS,
)
"""The order of ``struct sigcontext``."""

_FRAME = struct.Struct(f"<6Q{len(_SAVED)}Q4H4QQ64xQ")

_SW_RESERVED_AT = 464
_XFEATURES_AT = 464  # where PTRACE_GETREGSET puts them, asm/user.h (xstate_fx_sw)
_MAGIC1 = 0x46505853
_MAGIC2 = struct.pack("<I", 0x46505845)
XSTATE_ALIGNMENT = 64

# Errors that never reach a program, linux/errno.h. ERESTARTSYS and ERESTARTNOINTR: the
# call is made again. ERESTARTNOHAND and ERESTART_RESTARTBLOCK: it waits for a signal or
# a while. A signal may have been handled on the way here, and then it would wait for
# another one for ever; and the while is forgotten by rt_sigreturn(2).
_RESTART = (-512, -513)
_WAITED = (-514, -516)
_EINTR = -4
_SYSCALL_BYTES = 2


def sigframe(
    registers: Sequence[int], mask: int, xstate_at: int, sigreturn: int
) -> bytes:
    """Return a frame, to be put where the stack pointer is when ``ret`` executes.

    :param registers: the words of ``NT_PRSTATUS``
    :param mask: signals that are blocked afterwards
    :param xstate_at: address of :func:`xstate_area`, 0 to clear all these registers
    :param sigreturn: address of the code that calls ``rt_sigreturn(2)``
    """
    return _FRAME.pack(
        sigreturn,
        _UC_FLAGS,
        0,
        0,
        _NO_ALTSTACK_FLAGS,
        0,
        *[registers[register] for register in _SAVED],
        registers[Register.CS],
        0,
        0,
        registers[Register.SS],
        0,
        0,
        0,
        0,
        xstate_at,
        mask,
    )


def xstate_area(xstate: bytes) -> bytes:
    """Return ``NT_X86_XSTATE`` as a frame has it, ``struct _fpx_sw_bytes``."""
    features = xstate[_XFEATURES_AT : _XFEATURES_AT + 8]
    size = len(xstate)
    head = struct.pack("<II", _MAGIC1, size + len(_MAGIC2)) + features
    head += struct.pack("<I28x", size)
    return b"".join(
        (
            xstate[:_SW_RESERVED_AT],
            head,
            xstate[_SW_RESERVED_AT + len(head) :],
            _MAGIC2,
        )
    )


def resumed(registers: Sequence[int]) -> list[int]:
    """Return the registers with which a thread goes on after an interrupted call.

    Where the kernel finds them it makes the call again or ends it, as is right; in a
    frame it does not.
    """
    found = list(registers)
    result = found[Register.RAX] - (found[Register.RAX] >> 63 << 64)
    interrupted = found[Register.ORIG_RAX] >> 63 == 0
    if interrupted and result in _RESTART:
        found[Register.RAX] = found[Register.ORIG_RAX]
        found[Register.RIP] -= _SYSCALL_BYTES
    elif interrupted and result in _WAITED:
        found[Register.RAX] = _EINTR + (1 << 64)
    return found

"""x86-64: ``struct user_regs_struct``, ``sys/user.h``, and system call numbers."""

from enum import IntEnum

from sandlock_async.arch.machine import Machine


class Register(IntEnum):
    """The words of ``NT_PRSTATUS``, in their order."""

    R15 = 0
    R14 = 1
    R13 = 2
    R12 = 3
    RBP = 4
    RBX = 5
    R11 = 6
    R10 = 7
    R9 = 8
    R8 = 9
    RAX = 10
    RCX = 11
    RDX = 12
    RSI = 13
    RDI = 14
    ORIG_RAX = 15
    RIP = 16
    CS = 17
    EFLAGS = 18
    RSP = 19
    SS = 20
    FS_BASE = 21
    GS_BASE = 22
    DS = 23
    ES = 24
    FS = 25
    GS = 26


class Call(IntEnum):
    """System calls, ``asm/unistd_64.h``."""

    BRK = 12
    RT_SIGACTION = 13
    NANOSLEEP = 35
    GETITIMER = 36
    CLONE = 56
    EXIT = 60
    WAIT4 = 61
    SIGALTSTACK = 131
    PRCTL = 157
    EXIT_GROUP = 231
    CLOSE_RANGE = 436


NO_CALL = (1 << 64) - 1
"""``orig_rax`` of a thread that is not in a system call: nothing to restart."""

USER_CS = 0x33
"""Code segment of 64-bit programs; 0x23 is that of 32-bit ones, ``asm/segment.h``."""

USER_SS = 0x2B

TRAP_FLAG = 0x100
"""Of ``eflags``: a SIGTRAP after each instruction."""

RED_ZONE_BYTES = 128
"""What a function may use below its stack pointer, System V ABI."""

MACHINE = Machine(
    name="x86_64",
    elf_machine=62,
    register_count=27,
    pc=Register.RIP,
    sp=Register.RSP,
    fp_regsets=(0x202, 2),
    wait4=61,
    get_robust_list=274,
    waitid=247,
    kcmp=312,
    userfaultfd=323,
)

"""What has to be known of a machine to capture a program that runs on it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine's ``NT_PRSTATUS`` layout and the system calls a capture looks for.

    :ivar name: as ``uname -m`` prints it
    :ivar elf_machine: ``e_machine`` of its programs, ``linux/elf-em.h``
    :ivar register_count: u64 words in the register set, ``asm/ptrace.h``
    :ivar pc: word that holds the program counter
    :ivar sp: word that holds the stack pointer
    :ivar fp_regsets: register sets with the floating-point registers, the fullest
        first, ``linux/elf.h``
    :ivar wait4: number of ``wait4(2)``
    :ivar get_robust_list: number of ``get_robust_list(2)``
    :ivar waitid: number of ``waitid(2)``
    :ivar kcmp: number of ``kcmp(2)``
    :ivar userfaultfd: number of ``userfaultfd(2)``
    """

    name: str
    elf_machine: int
    register_count: int
    pc: int
    sp: int
    fp_regsets: tuple[int, ...]
    wait4: int
    get_robust_list: int
    waitid: int
    kcmp: int
    userfaultfd: int

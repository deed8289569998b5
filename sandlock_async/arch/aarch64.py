"""AArch64: ``struct user_pt_regs``, ``asm/ptrace.h``."""

from sandlock_async.arch.machine import Machine

# x0-x30 sp pc pstate
MACHINE = Machine(
    name="aarch64",
    elf_machine=183,
    register_count=34,
    pc=32,
    sp=31,
    fp_regsets=(2,),
    wait4=260,
    get_robust_list=100,
    waitid=95,
    kcmp=272,
    userfaultfd=282,
)

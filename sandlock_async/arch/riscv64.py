"""RISC-V, 64 bits: ``struct user_regs_struct``, ``asm/ptrace.h``."""

from sandlock_async.arch.machine import Machine

# pc ra sp gp tp t0-t2 s0 s1 a0-a7 s2-s11 t3-t6
MACHINE = Machine(
    name="riscv64",
    elf_machine=243,
    register_count=32,
    pc=0,
    sp=2,
    fp_regsets=(2,),
    wait4=260,
    get_robust_list=100,
    waitid=95,
    kcmp=272,
    userfaultfd=282,
)

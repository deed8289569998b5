"""x86-64: ``struct user_regs_struct``, ``sys/user.h``."""

from sandlock_async.arch.machine import Machine

# r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags
# rsp ss fs_base gs_base ds es fs gs
MACHINE = Machine(
    name="x86_64",
    elf_machine=62,
    register_count=27,
    pc=16,
    sp=19,
    fp_regsets=(0x202, 2),
    wait4=61,
    get_robust_list=274,
    waitid=247,
    kcmp=312,
)

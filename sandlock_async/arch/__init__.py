"""One file a machine: register order and system call numbers, nothing else."""

from sandlock_async.arch import aarch64, riscv64, x86_64
from sandlock_async.arch.machine import Machine

MACHINES = {
    machine.name: machine
    for machine in (x86_64.MACHINE, aarch64.MACHINE, riscv64.MACHINE)
}
"""Every machine a capture knows, by the name that ``uname -m`` gives it."""

__all__ = ["MACHINES", "Machine"]

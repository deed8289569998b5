"""Clones of a frozen thread: borrowed code, frames and questions; and when none is made.

Bytes only. That a kernel agrees is proved in tests/integration/test_asking.py.
"""

import ctypes
import os
import re
import signal
import struct
import subprocess
import time
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_async.arch import MACHINES
from sandlock_async.arch.x86_64 import RED_ZONE_BYTES, USER_CS, USER_SS, Call, Register
from sandlock_async.injection import permission
from sandlock_async.injection.gadgets import Gadget, Gadgets, find_gadgets, stores_to
from sandlock_async.injection.permission import filters_let_clone
from sandlock_async.injection.questions import (
    SNAPSHOT_NAME,
    Answers,
    Questions,
    Script,
    Wish,
    write_script,
)
from sandlock_async.injection.search import are_there
from sandlock_async.injection.sigframe import (
    ALL_SIGNALS,
    FRAME_BYTES,
    XSTATE_ALIGNMENT,
    resumed,
    sigframe,
    xstate_area,
)
from sandlock_async.kernel import files, ptrace
from sandlock_async.model import AltStack, IntervalTimer, SignalAction
from sandlock_async.procfs.maps import parse_maps
from sandlock_async.procfs.stat import parse_stat
from sandlock_async.scene import lacking_facts
from sandlock_async.snapshot.asking import (
    Asking,
    Means,
    Unasked,
    _obstacle,
    _signals,
    find_means,
)
from sandlock_async.snapshot.thread_facts import RawThread

# -- gadgets -------------------------------------------------------------------

PLAIN = bytes.fromhex("0f05 c3")
CLEARING = bytes.fromhex("0f05 31d2 31c9 31f6 31ff 4531c0 4531d2 4531db c3")
SIGRETURN = bytes.fromhex("48c7c00f000000 0f05")
STORE = bytes.fromhex("488902 c3")  # mov %rax, (%rdx)


@pytest.mark.parametrize(
    ("code", "register", "displacement"),
    [
        ("488902", Register.RDX, 0),
        ("488906", Register.RSI, 0),
        ("498900", Register.R8, 0),
        ("498901", Register.R9, 0),
        ("498902", Register.R10, 0),
        ("48894208", Register.RDX, 8),
        ("488946f8", Register.RSI, -8),
        ("4989407f", Register.R8, 127),
        ("49894180", Register.R9, -128),
        ("498942c3", Register.R10, -61),  # looks like a return
    ],
)
def test_stores(code: str, register: Register, displacement: int) -> None:
    content = bytes.fromhex(code) + b"\xc3"

    found = find_gadgets(b"\x90" + content + b"\x90").store

    assert found == Gadget(1, content)
    assert stores_to(content) == (register, displacement)


@pytest.mark.parametrize(
    "code",
    [
        "488907c3",  # by rdi, which keeps the first argument
        "498903c3",  # by r11, which a system call overwrites
        "48890ac3",  # stores rcx
        "498944240cc3",  # by r12, with a scale byte
        "48890290c3",  # something between it and the return
        "8902c3",  # four bytes only
    ],
)
def test_no_stores(code: str) -> None:
    assert find_gadgets(bytes.fromhex(code)).store is None


@pytest.mark.parametrize("code", [PLAIN, CLEARING, bytes.fromhex("0f05 4d33c0 c3")])
def test_system_calls(code: bytes) -> None:
    assert find_gadgets(b"\xcc" * 3 + code).syscall == Gadget(3, code)


@pytest.mark.parametrize(
    "code",
    [
        "0f05 31e4 c3",  # rsp is cleared
        "0f05 31c8 c3",  # not with itself
        "0f05 90 c3",
        "0f34 c3",  # sysenter
        "0f05",
    ],
)
def test_no_system_calls(code: str) -> None:
    assert find_gadgets(bytes.fromhex(code)).syscall is None


def test_the_plain_system_call_is_preferred() -> None:
    found = find_gadgets(CLEARING + SIGRETURN + STORE + PLAIN)

    at = len(CLEARING + SIGRETURN + STORE)
    assert found.syscall == Gadget(at, PLAIN)
    assert found.sigreturn == Gadget(len(CLEARING), SIGRETURN)
    assert found.store == Gadget(len(CLEARING + SIGRETURN), STORE)
    assert found.complete


def test_what_is_lacking_is_taken_from_the_others() -> None:
    plain = find_gadgets(PLAIN + SIGRETURN)
    clearing = find_gadgets(CLEARING + STORE).moved(0x1000)

    assert clearing.or_else(plain) == plain.or_else(clearing)
    both = clearing.or_else(plain)
    assert (both.syscall, both.sigreturn) == (plain.syscall, plain.sigreturn)
    assert both.store == clearing.store
    assert both.complete
    # Of two that are as good the first is kept.
    assert plain.or_else(plain.moved(8)) == plain
    assert clearing.or_else(clearing.moved(8)) == clearing


@pytest.mark.parametrize(
    ("code", "usable", "can_store"),
    [
        (b"", False, False),
        (PLAIN, False, False),
        (SIGRETURN, False, False),
        (PLAIN + SIGRETURN, True, False),
        (PLAIN + STORE, False, True),
        (CLEARING + SIGRETURN + STORE, True, False),  # what is stored by is cleared
        (PLAIN + SIGRETURN + STORE, True, True),
    ],
)
def test_what_gadgets_are_good_for(code: bytes, usable: bool, can_store: bool) -> None:
    found = find_gadgets(code)

    assert (found.usable, found.can_store) == (usable, can_store)
    assert found.complete == (usable and can_store)


PIECES = st.sampled_from([PLAIN, CLEARING, SIGRETURN, STORE, b"\x0f", b"\x48", b"\xc3"])


@given(st.lists(PIECES | st.binary(max_size=8)).map(b"".join), st.integers(0, 1 << 47))
def test_gadgets_are_where_they_are_said_to_be(code: bytes, at: int) -> None:
    found = find_gadgets(code).moved(at)

    for gadget in found.present():
        assert code[gadget.address - at :].startswith(gadget.code)
    assert (found.syscall is None) <= (PLAIN not in code)
    assert (found.sigreturn is None) == (SIGRETURN not in code)
    assert found.moved(-at) == find_gadgets(code)
    assert Gadgets().or_else(found) == found.or_else(Gadgets()) == found


def test_code_that_is_there() -> None:
    code = ctypes.create_string_buffer(PLAIN + SIGRETURN)
    found = find_gadgets(code.raw).moved(ctypes.addressof(code))

    assert are_there(os.getpid(), found)
    assert are_there(os.getpid(), Gadgets())
    code[0] = b"\x90"
    assert not are_there(os.getpid(), found)
    assert not are_there(os.getpid(), Gadgets(syscall=Gadget(8, PLAIN)))


@pytest.mark.parametrize(
    ("perms", "distance", "there"),
    [(b"r-xp", 0, True), (b"rw-p", 0, False), (b"r-xp", 0x1000, False)],
)
def test_code_in_other_mappings(perms: bytes, distance: int, there: bool) -> None:
    code = ctypes.create_string_buffer(PLAIN)
    at = ctypes.addressof(code)
    found = find_gadgets(PLAIN).moved(at)
    line = b"%x-%x %b 00000000 00:00 0 /lib\n" % (at + distance, at + 4096, perms)

    assert are_there(os.getpid(), found, parse_maps(line)) == there


# -- frames --------------------------------------------------------------------

# struct rt_sigframe: a return address, then struct ucontext (asm-generic/ucontext.h)
# with struct sigcontext (asm/sigcontext.h) at 40 in it.
SIGCONTEXT = 8 + 40
SAVED = {
    Register.R8: SIGCONTEXT,
    Register.R9: SIGCONTEXT + 8,
    Register.R10: SIGCONTEXT + 16,
    Register.R11: SIGCONTEXT + 24,
    Register.R12: SIGCONTEXT + 32,
    Register.R13: SIGCONTEXT + 40,
    Register.R14: SIGCONTEXT + 48,
    Register.R15: SIGCONTEXT + 56,
    Register.RDI: SIGCONTEXT + 64,
    Register.RSI: SIGCONTEXT + 72,
    Register.RBP: SIGCONTEXT + 80,
    Register.RBX: SIGCONTEXT + 88,
    Register.RDX: SIGCONTEXT + 96,
    Register.RAX: SIGCONTEXT + 104,
    Register.RCX: SIGCONTEXT + 112,
    Register.RSP: SIGCONTEXT + 120,
    Register.RIP: SIGCONTEXT + 128,
    Register.EFLAGS: SIGCONTEXT + 136,
}
CS_AT, SS_AT = SIGCONTEXT + 144, SIGCONTEXT + 150
FPSTATE_AT = SIGCONTEXT + 184
UC_FLAGS_AT, SS_FLAGS_AT, SIGMASK_AT = 8, 32, 304


def word(content: bytes | bytearray, at: int) -> int:
    return int.from_bytes(content[at : at + 8], "little")


def half(content: bytes | bytearray, at: int) -> int:
    return int.from_bytes(content[at : at + 2], "little")


def test_a_frame_is_as_the_kernel_has_it() -> None:
    registers = [0x1000 + number for number in range(len(Register))]

    frame = sigframe(registers, 0xA5A5, 0x7000, 0x5000)

    assert len(frame) == FRAME_BYTES == 312
    assert word(frame, 0) == 0x5000
    for register, at in SAVED.items():
        assert word(frame, at) == registers[register], register.name
    assert half(frame, CS_AT) == registers[Register.CS]
    assert half(frame, SS_AT) == registers[Register.SS]
    assert word(frame, FPSTATE_AT) == 0x7000
    assert word(frame, SIGMASK_AT) == 0xA5A5
    # UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS, asm/ucontext.h
    assert word(frame, UC_FLAGS_AT) == 1 | 2 | 4
    # sigaltstack(2) takes SS_ONSTACK, SS_DISABLE and SS_AUTODISARM, one at a time.
    assert word(frame, SS_FLAGS_AT) & 0xFFFFFFFF not in {0, 1, 2, 1 << 31}


@pytest.mark.parametrize("size", [576, 832, 2696, 11008])
def test_the_state_of_the_fpu_is_as_the_kernel_has_it(size: int) -> None:
    features = (0xE7).to_bytes(8, "little")
    xstate = bytearray(number % 251 for number in range(size))
    xstate[464:472] = features  # asm/user.h

    area = xstate_area(bytes(xstate))

    # struct _fpx_sw_bytes, asm/sigcontext.h, in the last 48 bytes of FXSAVE's 512
    assert len(area) == size + 4
    assert struct.unpack_from("<II8sI", area, 464) == (
        0x46505853,
        size + 4,
        features,
        size,
    )
    assert not any(area[484:512])
    assert area[size:] == struct.pack("<I", 0x46505845)
    assert area[:464] == xstate[:464]
    assert area[512:size] == xstate[512:]


ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK = 512, 513, 514, 516
EINTR, ENOIOCTLCMD = 4, 515
NANOSLEEP = 35
NO_CALL = (1 << 64) - 1


@pytest.mark.parametrize(
    ("call", "result", "goes_on_with", "distance"),
    [
        (NANOSLEEP, -ERESTARTSYS, NANOSLEEP, -2),
        (NANOSLEEP, -ERESTARTNOINTR, NANOSLEEP, -2),
        (NANOSLEEP, -ERESTARTNOHAND, -EINTR, 0),
        (NANOSLEEP, -ERESTART_RESTARTBLOCK, -EINTR, 0),
        (NANOSLEEP, -ENOIOCTLCMD, -ENOIOCTLCMD, 0),
        (NANOSLEEP, -EINTR, -EINTR, 0),
        (NANOSLEEP, 0, 0, 0),
        (NO_CALL, -ERESTARTSYS, -ERESTARTSYS, 0),
        (NO_CALL, -ERESTARTNOHAND, -ERESTARTNOHAND, 0),
    ],
)
def test_going_on_after_an_interrupted_call(
    call: int, result: int, goes_on_with: int, distance: int
) -> None:
    before = [0x1000 + number for number in range(len(Register))]
    before[Register.ORIG_RAX] = call
    before[Register.RAX] = result % (1 << 64)

    after = resumed(before)

    assert after[Register.RAX] == goes_on_with % (1 << 64)
    assert after[Register.RIP] == before[Register.RIP] + distance
    others = set(Register) - {Register.RAX, Register.RIP}
    assert all(after[register] == before[register] for register in others)


# -- questions -----------------------------------------------------------------

CODE_AT = 0x400000
BREAK = 0x55555557A123
SNAPSHOT = 4321
XSTATE = bytes(832)


def gadgets_of(*code: bytes) -> Gadgets:
    return find_gadgets(b"\x90".join(code)).moved(CODE_AT)


class Kernel:
    """Does what a kernel does with a thread that returns into a frame.

    :ivar answers: what it has to say
    :ivar started: where the stacks of new processes begin
    :ivar calls: the numbers of the calls that were made, with their first arguments
    """

    def __init__(self, script: Script, gadgets: Gadgets, answers: Answers) -> None:
        self.base = script.return_at
        self.memory = bytearray(script.content)
        self.gadgets = gadgets
        self.answers = answers
        self.started: list[int] = []
        self.calls: list[tuple[int, int]] = []

    def run(self, stack_pointer: int) -> None:
        """Run a thread to its end."""
        thread = self._thread(stack_pointer)
        registers = next(thread)
        while registers[Register.RAX] not in (Call.EXIT, Call.EXIT_GROUP):
            self._note(registers)
            registers = thread.send(self._call(registers))
        self._note(registers)
        assert registers[Register.RDI] == 0

    def frame(self, at: int) -> dict[Register, int]:
        return {
            register: word(self.memory, at - self.base + offset)
            for register, offset in SAVED.items()
        }

    def half(self, at: int) -> int:
        return half(self.memory, at - self.base)

    def word(self, at: int) -> int:
        return word(self.memory, at - self.base)

    def put(self, at: int, content: bytes) -> None:
        start = at - self.base
        assert 0 <= start <= len(self.memory) - len(content)
        self.memory[start : start + len(content)] = content

    def _note(self, registers: dict[Register, int]) -> None:
        self.calls.append((registers[Register.RAX], registers[Register.RDI]))

    def _thread(self, sp: int) -> Generator[dict[Register, int], int, None]:
        """Yield the registers at each call; its result is sent."""
        syscall, store = self.gadgets.syscall, self.gadgets.store
        assert syscall and self.gadgets.sigreturn
        registers: dict[Register, int] = {}
        while True:
            target = self.word(sp)
            if target == self.gadgets.sigreturn.address:
                assert self.word(sp + SIGMASK_AT) == ALL_SIGNALS
                assert self.word(sp + FPSTATE_AT) == 0
                assert self.half(sp + CS_AT) == USER_CS
                assert self.half(sp + SS_AT) == USER_SS
                registers = self.frame(sp)
                assert registers[Register.RIP] == syscall.address
                registers[Register.RAX] = yield registers
                sp = registers[Register.RSP]
            else:
                assert store and target == store.address
                base, displacement = stores_to(store.code)
                content = registers[Register.RAX].to_bytes(8, "little")
                self.put(registers[base] + displacement, content)
                sp += 8

    def _call(self, registers: dict[Register, int]) -> int:
        first, second, third, fourth = (
            registers[register]
            for register in (Register.RDI, Register.RSI, Register.RDX, Register.R10)
        )
        number = registers[Register.RAX]
        if number == Call.RT_SIGACTION:
            assert (second, fourth) == (0, 8)
            (this,) = (this for this in self.answers.handlers if this.signal == first)
            action = (this.handler, this.flags, this.restorer, this.mask)
            self.put(third, struct.pack("<4Q", *action))
        elif number == Call.SIGALTSTACK:
            assert first == 0
            stack = self.answers.alt_stack
            assert stack is not None
            self.put(
                second, struct.pack("<Qi4xQ", stack.address, stack.flags, stack.size)
            )
        elif number == Call.GETITIMER:
            assert self.answers.timers is not None
            timer = self.answers.timers[first]
            times = (*divmod(timer.interval, 10**6), *divmod(timer.value, 10**6))
            self.put(second, struct.pack("<4q", *times))
        elif number == Call.BRK:
            assert first == 0
            return BREAK
        elif number == Call.CLONE:
            self.started.append(second)
            self.put(third, struct.pack("<i", SNAPSHOT))
        elif number == Call.PRCTL:
            name = SNAPSHOT_NAME.encode() + b"\0"
            assert self.memory[second - self.base :].startswith(name)
        elif number == Call.NANOSLEEP:
            assert 0 < self.word(first) < 60
            assert self.word(first + 8) == 0
        else:
            assert number in (Call.WAIT4, Call.CLOSE_RANGE)
        return 0


U64 = st.integers(0, (1 << 64) - 1)
TIMES = st.integers(0, 1 << 40)
STORES = st.sampled_from(
    ["488902", "488906", "498900", "498901", "498902", "488942f8", "4989410c"]
).map(lambda code: bytes.fromhex(code) + b"\xc3")
GADGETS = st.builds(gadgets_of, st.just(PLAIN), st.just(SIGRETURN), STORES) | st.builds(
    gadgets_of,
    st.sampled_from([PLAIN, CLEARING, CLEARING + STORE]),
    st.just(SIGRETURN),
)


@st.composite
def replies(draw: st.DrawFn) -> Answers:
    signals = sorted(draw(st.sets(st.integers(1, 64))))
    return Answers(
        handlers=tuple(
            SignalAction(
                signal=signal,
                handler=draw(U64),
                flags=draw(U64),
                restorer=draw(U64),
                mask=draw(U64),
            )
            for signal in signals
        ),
        timers=tuple(
            IntervalTimer(which=which, value=draw(TIMES), interval=draw(TIMES))
            for which in range(3)
        ),
        brk=BREAK,
        alt_stack=AltStack(
            address=draw(U64), flags=draw(st.sampled_from([0, 1, 2])), size=draw(U64)
        ),
    )


def signals_of(answers: Answers) -> int:
    return sum(1 << this.signal - 1 for this in answers.handlers)


def registers_at(stack_pointer: int) -> list[int]:
    registers = [0x1000 + number for number in range(len(Register))]
    registers[Register.CS], registers[Register.SS] = USER_CS, USER_SS
    registers[Register.RSP] = stack_pointer
    return registers


@given(
    reply=replies(),
    gadgets=GADGETS,
    zombies=st.lists(st.integers(2, 1 << 22), max_size=3),
    snapshot=st.booleans(),
    stack_pointer=st.integers(1 << 32, 1 << 47),
)
def test_what_was_asked_is_what_is_understood(
    reply: Answers,
    gadgets: Gadgets,
    zombies: list[int],
    snapshot: bool,
    stack_pointer: int,
) -> None:
    wish = Wish(signals_of(reply), tuple(zombies), snapshot)
    questions = Questions(wish, gadgets)
    registers = registers_at(stack_pointer)
    script = write_script(questions, registers, 0xA5, XSTATE)
    kernel = Kernel(script, gadgets, reply)

    kernel.run(script.chain_at)
    at = script.answers_at - script.return_at
    found = questions.parse(bytes(kernel.memory[at : at + questions.answer_bytes]))

    assert found.handlers == reply.handlers
    assert found.timers == reply.timers
    assert found.alt_stack == reply.alt_stack
    assert found.brk == (BREAK if gadgets.can_store else None)
    assert found.snapshot == (SNAPSHOT if snapshot else 0)
    assert [first for call, first in kernel.calls if call == Call.WAIT4] == zombies
    assert len(kernel.started) == snapshot
    for stack in kernel.started:
        kernel.run(stack)
    assert kernel.calls[-1][0] == (Call.EXIT_GROUP if snapshot else Call.EXIT)
    # Nothing was written but answers; the thread's own frame is as it was.
    assert kernel.memory[:at] == script.content[:at]
    end = at + questions.answer_bytes
    assert kernel.memory[end:] == script.content[end:]


@given(
    signals=U64,
    gadgets=GADGETS,
    zombies=st.lists(st.just(2), max_size=3),
    snapshot=st.booleans(),
    stack_pointer=st.integers(1 << 32, 1 << 47),
    xstate_bytes=st.sampled_from([576, 832, 2440, 2696, 11008]),
)
def test_everything_has_its_place_below_the_stack(
    signals: int,
    gadgets: Gadgets,
    zombies: list[int],
    snapshot: bool,
    stack_pointer: int,
    xstate_bytes: int,
) -> None:
    questions = Questions(Wish(signals, tuple(zombies), snapshot), gadgets)
    segments = (USER_CS, USER_SS)
    xstate = bytes(range(256)) * (xstate_bytes // 256 + 1)
    xstate = xstate[:xstate_bytes]
    registers = registers_at(stack_pointer)

    script = write_script(questions, registers, 0xA5, xstate)

    chain = questions.chain(script.chain_at, segments)
    assert len(chain) == questions.chain_bytes
    assert script.chain_at + len(chain) == script.answers_at
    at = script.chain_at - script.return_at
    assert script.content[at:].startswith(chain)
    end = script.return_at + len(script.content)
    assert end <= stack_pointer - RED_ZONE_BYTES
    assert script.answers_at + questions.answer_bytes <= end
    assert not any(script.content[script.answers_at - script.return_at :][:8])
    # XRSTOR wants its operand aligned; it lies between the frame and the chain.
    xstate_at = word(script.content, FPSTATE_AT)
    assert xstate_at % XSTATE_ALIGNMENT == 0
    assert script.return_at + FRAME_BYTES == xstate_at
    area = xstate_area(xstate)
    assert script.content[xstate_at - script.return_at :].startswith(area)
    assert xstate_at + len(area) <= script.chain_at


def test_the_thread_goes_on_where_it_was() -> None:
    registers = registers_at(1 << 40)
    registers[Register.ORIG_RAX] = NANOSLEEP
    registers[Register.RAX] = -ERESTARTSYS % (1 << 64)
    gadgets = gadgets_of(PLAIN, SIGRETURN)

    script = write_script(Questions(Wish(), gadgets), registers, 0xA5, XSTATE)

    assert gadgets.sigreturn is not None
    assert word(script.content, 0) == gadgets.sigreturn.address
    assert word(script.content, SIGMASK_AT) == 0xA5
    for register, at in SAVED.items():
        assert word(script.content, at) == resumed(registers)[register]


NOTHING = Answers(
    handlers=(),
    timers=tuple(IntervalTimer(which=which, value=0, interval=0) for which in range(3)),
    brk=0,
    alt_stack=AltStack(address=0, flags=0, size=0),
)


@pytest.mark.parametrize(("store", "brk"), [(b"", None), (STORE, 0)])
def test_the_least_that_is_asked(store: bytes, brk: int | None) -> None:
    questions = Questions(Wish(), gadgets_of(PLAIN, SIGRETURN, store))

    # The stack, three timers, exit; and brk, with the address of what stores it.
    assert questions.chain_bytes == 5 * FRAME_BYTES + (FRAME_BYTES + 8) * bool(store)
    assert questions.parse(bytes(questions.answer_bytes)) == replace(NOTHING, brk=brk)


# -- when none is made ---------------------------------------------------------

STATUS = b"Name:\tit\nSeccomp:\t0\nSeccomp_filters:\t0\n"
FILTERED = b"Name:\tit\nSeccomp:\t2\nSeccomp_filters:\t%d\n"
SIGNALS = b"Name:\tit\nSigBlk:\t00000000000000ff\nSigIgn:\t%016x\nSigCgt:\t%016x\n"
(STACK,) = parse_maps(b"10000-20000 rw-p 00000000 00:00 0    [stack]\n")
MAIN = RawThread(
    tid=os.getpid(),
    registers=struct.pack("<27Q", *registers_at(0x18000)),
    xstate=XSTATE,
    signal_mask=0,
    queued=[],
    rseq=(0, 0, 0, 0),
)
MEANS = Means(gadgets=Gadgets())
TRAP_FLAG = 0x100


def mask_of(*signals: int) -> int:
    return sum(1 << signum - 1 for signum in signals)


def with_register(register: Register, value: int) -> dict[str, bytes]:
    registers = registers_at(0x18000)
    registers[register] = value
    return {"registers": struct.pack("<27Q", *registers)}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, ""),
        ({"registers": bytes(68)}, "32-bit"),  # struct user_regs_struct of i386
        (with_register(Register.CS, 0x23), "32-bit"),
        (with_register(Register.EFLAGS, 0x202 | TRAP_FLAG), "steps through"),
        ({"rseq": None}, "kernel does not tell"),
        ({"rseq": (8, 32, 0, 0)}, "restartable sequence"),  # not to be read
        ({"xstate": b""}, "floating-point"),
        (with_register(Register.RSP, 0x10000), ""),
        (with_register(Register.RSP, 0x20000), "ordinary stack"),
        (with_register(Register.RSP, 0x7000), "ordinary stack"),
    ],
)
def test_threads_that_make_no_clone(changed: dict[str, Any], reason: str) -> None:
    main = MAIN._replace(**changed)

    found = _obstacle(main, STATUS, STACK.map)

    assert reason in found
    assert bool(found) == bool(reason)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (FILTERED % 1, ""),  # of sandlock, it was found before
        (FILTERED % 2, "seccomp"),
        (STATUS + b"x86_Thread_features:\twrss shstk\n", "shadow stack"),
        (STATUS + b"x86_Thread_features:\t\n", ""),
    ],
)
def test_processes_that_make_no_clone(status: bytes, reason: str) -> None:
    found = _obstacle(MAIN, status, STACK.map)

    assert reason in found
    assert bool(found) == bool(reason)


def test_a_process_without_a_stack() -> None:
    assert "ordinary stack" in _obstacle(MAIN, STATUS, None)


@pytest.mark.parametrize("dispatches", [False, True])
@pytest.mark.parametrize("caught", [mask_of(signal.SIGSYS), mask_of(signal.SIGTERM)])
def test_dispatched_calls(
    caught: int, dispatches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ptrace, "may_dispatch_calls", lambda _: dispatches)
    status = SIGNALS % (0, caught) + STATUS

    found = _obstacle(MAIN, status, STACK.map)

    assert bool(found) == (dispatches and caught == mask_of(signal.SIGSYS))


@pytest.mark.parametrize(
    ("rseq_cs", "reason"), [(0, ""), (0x5000, "it is in a restartable sequence")]
)
def test_a_restartable_sequence(rseq_cs: int, reason: str) -> None:
    # struct rseq: cpu_id_start, cpu_id, rseq_cs, …
    area = ctypes.create_string_buffer(struct.pack("<IIQQQ", 1, 1, rseq_cs, 0, 0))
    main = MAIN._replace(rseq=(ctypes.addressof(area), 32, 0, 0))

    assert _obstacle(main, STATUS, STACK.map) == reason


@pytest.mark.parametrize("supervised", [False, True], ids=["foreign", "sandlock"])
@pytest.mark.parametrize(
    ("status", "if_supervised"),
    [
        (FILTERED % 1, True),
        (FILTERED % 2, False),  # whose is the other?
        (b"Name:\tit\nSeccomp:\t1\nSeccomp_filters:\t1\n", False),  # strict
        (b"Name:\tit\nSeccomp:\t2\n", False),  # a kernel that does not count them
    ],
)
def test_filters(
    status: bytes,
    if_supervised: bool,
    supervised: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(permission, "_is_supervised_by_sandlock", lambda _: supervised)

    lets = supervised and if_supervised
    assert filters_let_clone(1, status, sandboxed=False) == lets
    assert filters_let_clone(1, status, sandboxed=True) == if_supervised
    assert filters_let_clone(1, STATUS, sandboxed=False)


def test_children_of_a_supervisor_are_counted_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        stat = parse_stat(Path(f"/proc/{child.pid}/stat").read_bytes())
        this = (child.pid, stat.start_time)
        remembered: dict[tuple[int, int], float] = {}
        listeners = [1]
        monkeypatch.setattr(permission, "_SUPERVISED", remembered)
        monkeypatch.setattr(permission, "_filtered_children", lambda _: [this])
        monkeypatch.setattr(permission, "_listeners", lambda _: listeners[0])

        assert permission._supervises_all(os.getpid())
        listeners[0] = 0

        assert not permission._supervises_all(os.getpid())
        assert filters_let_clone(child.pid, FILTERED % 1, sandboxed=False)
        # Not if it has added a filter, is another one, or was seen long ago.
        assert not filters_let_clone(child.pid, FILTERED % 2, sandboxed=False)
        until = remembered.pop(this)
        remembered[child.pid, stat.start_time + 1] = until
        assert not filters_let_clone(child.pid, FILTERED % 1, sandboxed=False)
        remembered[this] = time.monotonic() - 1
        assert not filters_let_clone(child.pid, FILTERED % 1, sandboxed=False)
        listeners[0] = 1
        assert permission._supervises_all(os.getpid())
        assert set(remembered) == {this, (child.pid, stat.start_time + 1)}
        child.kill()


def test_nobody_around_the_first_process_is_sandlock() -> None:
    assert not filters_let_clone(1, FILTERED % 1, sandboxed=False)


@pytest.mark.parametrize(
    ("machine", "flags", "reason"),
    [
        ("aarch64", [], "not made on aarch64"),
        ("riscv64", [], "not made on riscv64"),
        ("x86_64", [{"rd", "um"}], "userfaultfd"),
        ("x86_64", [{"rd"}, {"uw"}], "userfaultfd"),
        ("x86_64", [{"ui"}], "userfaultfd"),
    ],
)
def test_means_that_are_not_looked_for(
    machine: str, flags: Iterable[set[str]], reason: str
) -> None:
    means = find_means(0, MACHINES[machine], [], map(frozenset, flags), sandboxed=False)

    assert reason in means.obstacle
    assert means.gadgets == Gadgets()


def test_a_shadow_stack_is_seen_before_the_freeze(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status = STATUS + b"x86_Thread_features:\tshstk\n"
    monkeypatch.setattr(files, "read_record", lambda _: status)

    means = find_means(1, MACHINES["x86_64"], [], [], sandboxed=False)

    assert means.obstacle == "it has a shadow stack"


def answer_of(
    means: Means, status: bytes, *, undisturbed: bool = True, snapshot: bool = False
) -> Answers | Unasked:
    asking = Asking(
        MAIN,
        status,
        means,
        [STACK],
        undisturbed=undisturbed,
        changed=False,
        snapshot=snapshot,
    )
    asking.advance()
    assert asking.signal == 0
    assert asking.changed == (0, b"")
    return asking.finish(lambda: None)


@pytest.mark.parametrize(
    ("means", "undisturbed", "reason"),
    [
        (Means(gadgets=Gadgets(), obstacle="it is old"), True, "it is old"),
        (MEANS, False, "a signal was about to stop it or to be handled"),
        (
            Means(gadgets=Gadgets(syscall=Gadget(8, PLAIN))),
            True,
            "its code has changed just now",
        ),
    ],
    ids=["means", "signal", "code"],
)
def test_nobody_is_asked(means: Means, undisturbed: bool, reason: str) -> None:
    status = SIGNALS % (0, mask_of(signal.SIGTERM)) + STATUS

    assert answer_of(means, status, undisturbed=undisturbed) == Unasked(reason)


OLD = Means(gadgets=Gadgets(), obstacle="it is old")
REAPING = Means(gadgets=Gadgets(), obstacle="it is old", zombies=(7,))


@pytest.mark.parametrize(
    ("means", "ignored", "caught", "snapshot", "needed"),
    [
        (OLD, mask_of(), mask_of(), False, False),
        (OLD, mask_of(signal.SIGPIPE), mask_of(), False, False),
        (OLD, mask_of(signal.SIGCHLD), mask_of(), False, True),  # SA_NOCLDWAIT?
        (OLD, mask_of(), mask_of(64), False, True),
        (OLD, mask_of(), mask_of(), True, True),
        (REAPING, mask_of(), mask_of(), False, True),
    ],
)
def test_who_handles_no_signal_need_not_be_asked(
    means: Means, ignored: int, caught: int, snapshot: bool, needed: bool
) -> None:
    status = SIGNALS % (ignored, caught) + STATUS

    found = answer_of(means, status, snapshot=snapshot)

    if needed:
        assert found == Unasked("it is old")
        return
    assert isinstance(found, Answers)
    assert [(this.signal, this.handler) for this in found.handlers] == [
        (number, 1) for number in range(1, 65) if ignored >> number - 1 & 1
    ]
    assert (found.timers, found.brk, found.alt_stack) == (None, None, None)


@pytest.mark.parametrize(
    ("asked", "warnings"),
    [
        (NOTHING, []),
        (replace(NOTHING, brk=None), ["brk of process 7 is not known"]),
        (Answers(handlers=()), []),  # it need not be asked
        (Unasked("it is old"), ["handlers, .* timers of process 7 .*: it is old$"]),
    ],
    ids=["all", "no-brk", "needless", "nothing"],
)
def test_what_is_lacking_is_told(asked: Answers | Unasked, warnings: list[str]) -> None:
    found = lacking_facts(7, asked)

    assert len(found) == len(warnings)
    for warning, pattern in zip(found, warnings, strict=True):
        assert re.search(pattern, warning)


def test_which_signals_do_not_have_their_default_action() -> None:
    status = SIGNALS % (1 << 12, 1 << 63 | 1 << 1) + STATUS

    assert _signals(status) == (1 << 12, 1 << 63 | 1 << 1)
    assert _signals(STATUS) == (0, 0)

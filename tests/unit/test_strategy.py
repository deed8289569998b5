"""Which way the memory of a process is read, and what a fork has of it."""

import pytest

from sandlock_async.procfs.maps import parse_maps
from sandlock_async.selection import select, split_by_fork
from sandlock_async.strategy import FORK_FROM_BYTES, Strategy, choose

LARGE = FORK_FROM_BYTES + 1
AUTO, DIRECT, FORK = Strategy.AUTO, Strategy.DIRECT, Strategy.FORK


@pytest.mark.parametrize(
    ("wanted", "facts", "strategy", "reason"),
    [
        (AUTO, {}, DIRECT, "small"),
        (AUTO, {"expected_bytes": LARGE}, FORK, "large"),
        (AUTO, {"expected_bytes": LARGE, "headroom": LARGE}, FORK, "large"),
        (AUTO, {"expected_bytes": LARGE, "headroom": 4096}, DIRECT, "cgroup"),
        (AUTO, {"expected_bytes": LARGE, "obstacle": "old"}, DIRECT, "old"),
        (AUTO, {"expected_bytes": LARGE, "uncopied_bytes": 2}, DIRECT, "not copy 2"),
        (FORK, {}, FORK, "asked"),
        (FORK, {"headroom": 0}, FORK, "asked"),
        (FORK, {"obstacle": "old"}, DIRECT, "old"),
        (FORK, {"uncopied_bytes": 2}, DIRECT, "memory_limit"),
        (DIRECT, {"expected_bytes": LARGE, "obstacle": "old"}, DIRECT, "asked"),
    ],
)
def test_the_choice(
    wanted: Strategy, facts: dict[str, object], strategy: Strategy, reason: str
) -> None:
    usual: dict[str, object] = {
        "expected_bytes": 4096,
        "uncopied_bytes": 0,
        "room": 1,
        "headroom": None,
        "obstacle": "",
    }

    choice = choose(wanted, **(usual | facts))  # type: ignore[arg-type]

    assert choice.strategy is strategy
    assert reason in choice.reason


def test_what_a_fork_copies() -> None:
    mappings = parse_maps(
        b"1000-2000 rw-p 00000000 00:00 0 \n"
        b"2000-3000 rw-p 00000000 00:00 0 \n"
        b"3000-4000 rw-p 00000000 00:00 0 \n"
        b"4000-5000 rw-p 00000000 00:00 0 \n"
        b"5000-6000 rw-s 00000000 00:01 7    /dev/zero (deleted)\n"
        b"6000-7000 r--p 00000000 fe:01 9    /lib/it\n"
        b"9000-a000 rw-p 00000000 00:00 0 \n"
    )
    flags = {
        0x2000: frozenset(("rd", "dc")),
        0x3000: frozenset(("rd", "wf")),
        0x4000: frozenset(("rd", "ht")),
    }
    wanted = select(mappings, flags)

    copied, others = split_by_fork(wanted, flags)

    assert [this.start for this in copied.whole] == [0x1000, 0x9000]
    assert [this.start for this in copied.changed] == [0x6000]
    assert [this.start for this in others.whole] == [0x2000, 0x3000, 0x4000, 0x5000]
    assert others.changed == ()
    assert [this.start for this in others.shared] == [0x5000]
    assert copied.shared == ()
    assert wanted.spans == ((0x1000, 0xA000),)
    assert copied.ends | others.ends == wanted.ends

"""Where a token is that is passed on through pipes, in images of one instant."""

import struct
from collections.abc import Iterable
from pathlib import Path

import sandlock_async as sa
from tests.integration.test_targets import memory_at


async def place_of_token(images: Iterable[Path], address: int) -> str:
    """Assert that the token of tests/programs/token.c is in one place.

    :param address: of the token in every process
    :return: ``memory`` or ``pipe``
    """
    held: list[int] = []
    sent: list[int] = []
    for image in images:
        async with await sa.Checkpoint.load(image) as checkpoint:
            token = memory_at(checkpoint, address, 8)
            held.append(int.from_bytes(token, "little"))
            for pipe in checkpoint.process_state.pipe_contents:
                sent += struct.unpack(f"<{len(pipe.data) // 8}Q", pipe.data)
    # Each hop counts the token up, so the newest number is the token itself: it is
    # in one place. Who has passed it on may still show the number it had.
    tokens = [*filter(None, held), *sent]
    assert len(sent) <= 1
    assert tokens.count(max(tokens)) == 1
    assert not sent or sent == [max(tokens)]
    return "pipe" if sent else "memory"

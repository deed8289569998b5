"""Real sandboxes of the sandlock that is installed beside us."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sandlock_async as sa
from tests.conftest import missing, until
from tests.integration.wheels import READABLE, RELEASES


@pytest.fixture
def sandbox() -> Iterator[Any]:
    sandlock = pytest.importorskip("sandlock")
    box = sandlock.Sandbox(fs_readable=READABLE)
    try:
        box.spawn(["/bin/sleep", "60"])
    except Exception as error:  # noqa: BLE001
        missing(f"a kernel with Landlock: {error}")
    pid = box.pid
    until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "the program")
    yield box
    if box.pid is not None:
        box.kill()
        box.wait()


async def test_a_sandbox_as_it_is(sandbox: Any, tmp_path: Path) -> None:
    for _ in range(20):
        report = await sa.capture_to(sandbox, tmp_path / "it", replace=True)

    assert report.pid == sandbox.pid
    async with await sa.Checkpoint.load(tmp_path / "it") as checkpoint:
        policy = sa.decode_policy("v1", checkpoint.policy)
        assert set(policy.fields["fs_readable"]) >= set(sandbox.fs_readable)  # type: ignore[call-overload]
        assert checkpoint.process_state.exe.endswith("/sleep")


async def test_while_the_sandbox_is_waited_for(sandbox: Any) -> None:
    # GIVEN sandlock's native supervisor waiting, on behalf of a thread
    pid = sandbox.pid
    thread = threading.Thread(target=sandbox.wait)
    thread.start()
    try:
        for _ in range(20):
            async with await sa.capture(pid) as checkpoint:
                assert checkpoint.process_state.pid == pid
            assert thread.is_alive()
    finally:
        os.kill(pid, 9)
        thread.join()


async def test_a_sandbox_with_a_policy_fn_is_refused(sandbox: Any) -> None:
    # Its forks would be denied while it is traced: seen with sandlock 0.9.0.
    sandbox.policy_fn = lambda *_: None

    with pytest.raises(sa.UncapturableError, match="policy_fn") as caught:
        await sa.capture(sandbox)

    assert "checkpoint()" in caught.value.help


async def test_the_policy_of_a_sandbox(sandbox: Any, tmp_path: Path) -> None:
    """It is what sandlock itself stores of it."""
    version = pytest.importorskip("sandlock").__version__
    layouts = {release: layout for layout, release in RELEASES.items()}
    if version not in layouts:
        pytest.skip(f"needs one of sandlock {', '.join(layouts)}")
    sandbox.checkpoint().save("theirs", store=tmp_path)

    await sa.capture_to(sandbox, tmp_path / "ours", format=layouts[version])

    ours = (tmp_path / "ours" / "policy.dat").read_bytes()
    assert ours == (tmp_path / "theirs" / "policy.dat").read_bytes()

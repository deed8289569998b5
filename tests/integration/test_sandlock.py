"""Real sandboxes, and the real loader of sandlock 0.8.2."""

import os
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sandlock_async as sa
from tests.conftest import missing, until

READABLE = ["/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/dev"]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The python of a venv with that release of sandlock and nothing else."""
    cache = os.environ.get("SANDLOCK_ASYNC_CACHE")
    folder = Path(cache) if cache else tmp_path_factory.mktemp("wheels")

    def install(version: str) -> Path:
        home = folder / f"sandlock-{version}-{sys.version_info[0]}{sys.version_info[1]}"
        python = home / "bin" / "python"
        if not (home / "ready").exists():
            venv.create(home, with_pip=True)
            pip = [python, "-m", "pip", "install", "-q", f"sandlock=={version}"]
            done = subprocess.run(pip, check=False, capture_output=True, text=True)
            if done.returncode:
                missing(f"sandlock {version} from the package registry: {done.stderr}")
            (home / "ready").touch()
        return python

    return install


@pytest.fixture
def sandbox() -> Iterator[Any]:
    sandlock = pytest.importorskip("sandlock")
    box = sandlock.Sandbox(fs_readable=[p for p in READABLE if os.path.exists(p)])
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


RESAVE = """
import sys
from sandlock._sdk import Checkpoint
name, store, other = sys.argv[1:]
checkpoint = Checkpoint.load(name, store=store)
print(checkpoint.name)
print(checkpoint.app_state)
checkpoint.save(name, store=other)
"""

CAPTURE = """
import sys, time
from sandlock import Sandbox
box = Sandbox(fs_readable=sys.argv[2:])
box.spawn(["/bin/sleep", "60"])
while open(f"/proc/{box.pid}/comm").read() != "sleep\\n" or "S" not in open(
        f"/proc/{box.pid}/stat").read().split(") ")[1][:1]:
    time.sleep(0.001)
box.checkpoint(save_fn=lambda: b"state").save("theirs", store=sys.argv[1])
box.kill(); box.wait()
"""


def files(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and "extended" not in file.parts
    }


async def test_0_8_2_loads_ours(
    sleeper: "subprocess.Popen[bytes]",
    wheel: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    await sa.capture_to(sleeper, tmp_path / "ours" / "web", app_state=b"\0app")

    shown = subprocess.run(
        [wheel("0.8.2"), "-c", RESAVE, "web", tmp_path / "ours", tmp_path / "theirs"],
        check=True,
        capture_output=True,
        text=True,
    )

    assert shown.stdout == "web\nb'\\x00app'\n"
    assert files(tmp_path / "theirs" / "web") == files(tmp_path / "ours" / "web")


async def test_we_load_what_0_8_2_saved(
    wheel: Callable[[str], Path], tmp_path: Path
) -> None:
    readable = [path for path in READABLE if os.path.exists(path)]
    subprocess.run([wheel("0.8.2"), "-c", CAPTURE, tmp_path, *readable], check=True)

    async with await sa.Checkpoint.load(tmp_path / "theirs") as checkpoint:
        assert checkpoint.name == "theirs"
        assert checkpoint.app_state == b"state"
        assert checkpoint.process_state.exe.endswith("/sleep")
        await checkpoint.save(tmp_path / "ours")

    theirs, ours = files(tmp_path / "theirs"), files(tmp_path / "ours")
    assert ours.pop("meta.json") == theirs.pop("meta.json")
    assert ours == theirs

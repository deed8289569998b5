"""Images at rest as age files: nothing in the clear, and everything back."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pyrage  # type: ignore[import-untyped]
import pytest

import sandlock_async as sa
from tests.conftest import Tracee, missing

pytestmark = pytest.mark.usefixtures("nothing_left")

HEADER = b"age-encryption.org/v1"
SECRET = b"4c6f6e67 and random enough not to be anywhere by chance"


class Key:
    """A pair of keys, and the file of the secret one."""

    def __init__(self, folder: Path) -> None:
        identity = pyrage.x25519.Identity.generate()
        self.public = str(identity.to_public())
        self.file = folder / f"key-{self.public[-6:]}.txt"
        self.file.write_text(f"# public key: {self.public}\n{identity}\n")


@pytest.fixture
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return Key(tmp_path_factory.mktemp("keys"))


def files_of(image: Path) -> list[Path]:
    return [path for path in image.rglob("*") if path.is_file()]


@pytest.mark.parametrize("format", ["v1", "v3"])
@pytest.mark.parametrize("strategy", ["direct", "fork"])
async def test_nothing_is_in_the_clear(
    format: str, strategy: str, key: Key, spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("big.py", 2 << 20, 1)
    path = tmp_path / "it"
    report = await sa.capture_to(
        tracee.pid,
        path,
        format=format,
        strategy=strategy,
        recipients=[key.public],
        app_state=SECRET,
        durable=False,
    )

    assert report.strategy == strategy
    assert all(file.name.endswith(".age") for file in files_of(path))
    for file in files_of(path):
        content = file.read_bytes()
        assert content.startswith(HEADER)
        assert SECRET not in content
        assert file.stat().st_mode & 0o777 == 0o600
    assert await sa.list_checkpoints(tmp_path) == ["it"]

    for identity in (key.file, key.file.read_text()):
        async with await sa.Checkpoint.load(
            path, identities=[identity], verify=True
        ) as checkpoint:
            assert checkpoint.app_state == SECRET
            assert checkpoint.process_state.pid == tracee.pid
            memory = await asyncio.to_thread(
                lambda state: [bytes(it.data) for it in state.memory_data],
                checkpoint.process_state,
            )
            assert sum(len(content.strip(b"\0")) for content in memory) > 2 << 20
    tracee.check_runs_on()


async def test_without_the_key(key: Key, sleeper: Tracee, tmp_path: Path) -> None:
    await sa.capture_to(sleeper, tmp_path / "it", recipients=[key.public])
    with pytest.raises(sa.ImageError, match="encrypted") as caught:
        await sa.Checkpoint.load(tmp_path / "it")
    assert "identities" in caught.value.help
    other = Key(tmp_path)
    with pytest.raises(sa.ImageError, match="cannot be decrypted"):
        await sa.Checkpoint.load(tmp_path / "it", identities=[other.file])


async def test_age_opens_it(key: Key, sleeper: Tracee, tmp_path: Path) -> None:
    if shutil.which("age") is None:
        missing("age")
    await sa.capture_to(sleeper, tmp_path / "it", recipients=[key.public])
    plain = tmp_path / "plain"
    for file in files_of(tmp_path / "it"):
        name = plain / file.relative_to(tmp_path / "it").with_suffix("")
        name.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["age", "-d", "-i", key.file, "-o", name, file], check=True)

    assert (await sa.verify(plain)).ok
    async with (
        await sa.Checkpoint.load(plain) as one,
        await sa.Checkpoint.load(tmp_path / "it", identities=[key.file]) as other,
    ):
        assert await asyncio.to_thread(lambda: one == other)


async def test_every_damage_is_found(key: Key, sleeper: Tracee, tmp_path: Path) -> None:
    path = tmp_path / "it"
    await sa.capture_to(sleeper, path, recipients=[key.public], format="v3")
    whole = await sa.verify(path, identities=[key.file])
    assert whole.ok, whole.findings
    for file in files_of(path):
        content = file.read_bytes()
        broken = bytearray(content)
        broken[-20] ^= 4
        file.write_bytes(broken)
        found = await sa.verify(path, identities=[key.file])
        name = str(file.relative_to(path))
        assert [it.file.removesuffix(".age") for it in found.findings] == [
            name.removesuffix(".age")
        ]
        file.write_bytes(content)
    shutil.copy(path / "policy.dat.age", path / "meta.json")
    found = await sa.verify(path, identities=[key.file])
    assert not found.ok


async def test_converted_both_ways(key: Key, sleeper: Tracee, tmp_path: Path) -> None:
    await sa.capture_to(sleeper, tmp_path / "plain")
    await sa.convert(
        tmp_path / "plain", tmp_path / "sealed", format="v3", recipients=[key.public]
    )
    report = await sa.convert(
        tmp_path / "sealed", tmp_path / "again", format="v1", identities=[key.file]
    )
    assert report.linked_bytes == 0
    assert (await sa.verify(tmp_path / "again")).ok
    async with (
        await sa.Checkpoint.load(tmp_path / "plain") as one,
        await sa.Checkpoint.load(tmp_path / "again") as other,
    ):
        assert await asyncio.to_thread(
            lambda: one.process_state.memory_data == other.process_state.memory_data
        )


async def test_replaced_and_abandoned(
    key: Key, sleeper: Tracee, tmp_path: Path
) -> None:
    for _ in range(2):
        await sa.capture_to(
            sleeper, tmp_path / "it", recipients=[key.public], replace=True
        )
    await sa.capture_to(sleeper, tmp_path / "it", replace=True)
    await sa.capture_to(sleeper, tmp_path / "it", recipients=[key.public], replace=True)
    assert os.listdir(tmp_path) == ["it"]


async def test_what_does_not_fit_is_refused(
    key: Key, spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("big.py", 4 << 20, 1)
    with pytest.raises(sa.UncapturableError, match="memory_limit"):
        await sa.capture_to(
            tracee.pid,
            tmp_path / "it",
            strategy="direct",
            memory_limit=0,
            recipients=[key.public],
        )
    assert "it" not in os.listdir(tmp_path)
    tracee.check_runs_on()


@pytest.mark.parametrize(
    ("recipient", "error"),
    [("age1nonsense", ValueError), ("x", ValueError), (7, TypeError)],
)
async def test_who_is_no_recipient(
    recipient: object, error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error, match="recipient"):
        await sa.capture_to(1, tmp_path / "it", recipients=[recipient])


def test_the_options(
    key: Key, sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    def run(*arguments: object) -> "subprocess.CompletedProcess[bytes]":
        command = [sys.executable, "-m", "sandlock_async", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, check=False, timeout=60)

    path = tmp_path / "it"
    assert not run("capture", sleeper.pid, path, "--recipient", key.public).returncode
    told = run("inspect", path, "--identity", key.file, "--json")
    assert orjson.loads(told.stdout)["pid"] == sleeper.pid
    assert run("inspect", path).returncode == 1
    assert run("verify", path, "--identity", key.file).returncode == 0
    assert run("verify", path).returncode == 1

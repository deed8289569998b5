"""Images at rest as age files: nothing in the clear, and everything back."""

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
import pyrage  # type: ignore[import-untyped]
import pytest

import sandlock_async as sa
from sandlock_async.image import age, directory
from sandlock_async.store import stage
from sandlock_async.store.buffers import Buffers
from sandlock_async.store.space import Room
from sandlock_async.store.stream import SegmentStream
from sandlock_async.workers import Workers
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


@pytest.fixture
def decrypted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Inodes of the files that have been decrypted."""
    found: list[int] = []
    open_to = age.Identities.open_to

    def recorded(self: age.Identities, source: int, destination: int) -> None:
        found.append(os.fstat(source).st_ino)
        open_to(self, source, destination)

    monkeypatch.setattr(age.Identities, "open_to", recorded)
    return found


def decrypted_bytes() -> int:
    """Return what decrypted files take that are open here."""
    taken = 0
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if "memfd:sandlock-async" in os.readlink(f"/proc/self/fd/{fd}"):
                taken += 512 * os.fstat(fd).st_blocks
        except OSError:
            continue  # that of the listing itself
    return taken


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


async def test_the_key_of_somebody_else(
    key: Key, sleeper: Tracee, tmp_path: Path
) -> None:
    path = tmp_path / "it"
    await sa.capture_to(sleeper, path, recipients=[key.public])
    other = Key(tmp_path)
    for call in (
        sa.Checkpoint.load(path, identities=[other.file]),
        sa.verify(path, identities=[other.file]),
        sa.convert(path, tmp_path / "no", format="v1", identities=[other.file]),
    ):
        with pytest.raises(sa.ImageError, match="for others") as caught:
            await call
        assert type(caught.value) is sa.ImageError
        assert caught.value.path == path
        assert "recipients" in caught.value.help
    # A single file that is for others has been put there by somebody.
    public = [pyrage.x25519.Recipient.from_str(other.public)]
    for name in ("extended/manifest.json", "policy.dat", "process/memory/0.bin"):
        file = path / f"{name}.age"
        content = file.read_bytes()
        file.write_bytes(pyrage.encrypt(b"", public))
        found = await sa.verify(path, identities=[key.file])
        assert [it.file.removesuffix(".age") for it in found.findings] == [name]
        file.write_bytes(content)


HOSTILE = {
    "too long": HEADER + b"\n" + b"-> X25519 AAAA\nAAAA\n" * 8000 + b"--- AAAA\n",
    "cut short": HEADER + b"\n-> X25519 AAAA\n",
    "no age file": b"age-encryption.org/v2\n--- AAAA\n",
    "is cut": HEADER + b"\n-> X25519 AAAA\n\n--- AAAA\n" + bytes(31),
}


@pytest.mark.parametrize("reason", HOSTILE)
async def test_what_is_no_age_file_is_not_decrypted(
    reason: str, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pyrage takes seconds for the first of them, and needs no key of ours for it.
    monkeypatch.setattr(pyrage, "decrypt_io", lambda *_: pytest.fail("decrypted"))
    (tmp_path / "meta.json.age").write_bytes(HOSTILE[reason])
    with pytest.raises(sa.ImageCorruptError, match=reason):
        await sa.Checkpoint.load(tmp_path, identities=[key.file])


async def test_too_long_to_be_decrypted(
    key: Key, sleeper: Tracee, tmp_path: Path, decrypted: list[int]
) -> None:
    await sa.capture_to(sleeper, tmp_path / "it", recipients=[key.public])
    public = [pyrage.x25519.Recipient.from_str(key.public)]
    name = "process/threads/0.bin"
    sealed = pyrage.encrypt(bytes(65 << 10), public)
    (tmp_path / "it" / f"{name}.age").write_bytes(sealed)
    with pytest.raises(sa.ImageCorruptError, match="66560 bytes are too many"):
        await sa.Checkpoint.load(tmp_path / "it", identities=[key.file])
    assert decrypted
    assert (tmp_path / "it" / f"{name}.age").stat().st_ino not in decrypted


async def test_memory_has_the_length_of_its_file(
    key: Key, sleeper: Tracee, tmp_path: Path
) -> None:
    path = tmp_path / "it"
    await sa.capture_to(sleeper, path, recipients=[key.public])
    file = path / "process/memory/0.bin.age"
    public = [pyrage.x25519.Recipient.from_str(key.public)]
    for size in (0, 1, 65535, 65536, 65537, 1 << 20):
        file.write_bytes(pyrage.encrypt(bytes(size), public))
        with pytest.raises(sa.ImageCorruptError, match=f" {size} bytes instead of"):
            await sa.Checkpoint.load(path, identities=[key.file])


async def test_what_is_open_takes_a_bounded_memory(
    key: Key,
    spawn: Callable[..., Tracee],
    decrypted: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(directory, "_DECRYPTED_BYTES", 3 << 20)
    tracee = spawn("big.py", 9 << 20, 1)
    path = tmp_path / "it"
    await sa.capture_to(tracee.pid, path, recipients=[key.public], durable=False)

    def read(state: sa.ProcessState) -> tuple[int, int]:
        *others, largest = sorted(state.memory_data, key=lambda it: len(it.data))
        assert largest.data[:1]
        taken = decrypted_bytes()
        for segment in others[-2:]:
            assert segment.data[:1]
        return taken, decrypted_bytes()

    async with await sa.Checkpoint.load(path, identities=[key.file]) as checkpoint:
        before, after = await asyncio.to_thread(read, checkpoint.process_state)
    assert after < 8 << 20 < before

    # A sum is taken of what streams by, and a copy of what is decrypted once.
    decrypted.clear()
    assert (await sa.verify(path, identities=[key.file])).ok
    memory = {
        file.stat().st_ino for file in files_of(path) if file.suffixes[0] == ".bin"
    }
    memory -= {file.stat().st_ino for file in files_of(path / "process/threads")}
    assert decrypted
    assert not memory & set(decrypted)
    await sa.convert(
        path, tmp_path / "no", format="v3", identities=[key.file], durable=False
    )
    assert memory
    assert all(decrypted.count(file) == 1 for file in memory)


async def test_no_descriptors_left(
    key: Key, sleeper: Tracee, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it"
    await sa.capture_to(sleeper, path, recipients=[key.public])

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(sa.ImageError, match="Too many open files") as caught:
        await sa.Checkpoint.load(path, identities=[key.file])
    assert caught.value.path == path / "meta.json.age"
    assert caught.value.help


async def test_nothing_in_the_clear_is_believed(
    key: Key, family: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    path, plain = tmp_path / "it", tmp_path / "plain"
    await sa.capture_to(family.pid, path, tree=True, recipients=[key.public])
    await sa.capture_to(family.pid, plain, tree=True)
    # GIVEN a descendant that is not encrypted, and no manifest that tells of it
    (path / "extended/manifest.json.age").unlink()
    shutil.rmtree(path / "children")
    shutil.copytree(plain / "children", path / "children")

    found = await sa.verify(path, identities=[key.file])
    assert {it.file for it in found.findings} > {"extended/manifest.json"}
    with pytest.raises(sa.ImageCorruptError):
        await sa.convert(path, tmp_path / "no", format="v1", identities=[key.file])

    # GIVEN a whole other image in the same place
    shutil.copytree(plain, path, dirs_exist_ok=True)
    shutil.copy(path / "meta.json.age", plain)
    for image in (path, plain):
        with pytest.raises(sa.ImageCorruptError, match="encrypted one, too"):
            await sa.Checkpoint.load(image, identities=[key.file])
        assert not (await sa.verify(image, identities=[key.file])).ok


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


class _Endless(sa.SegmentData):
    """Memory that is cancelled while it is read."""

    __slots__ = ("go", "reads", "seen")

    def __init__(self, seen: Callable[[], object]) -> None:
        self.seen = seen
        self.go = threading.Event()
        self.reads = 0

    def __len__(self) -> int:
        return 1 << 30

    def ranges(self) -> Sequence[tuple[int, int]]:
        return [(0, len(self))]

    def readinto(self, offset: int, buffer: memoryview) -> None:
        buffer[:1] = b"x"
        self.reads += 1
        if self.reads == 2:
            self.seen()
            assert self.go.wait(60)


async def test_cancelled_it_ends_within_a_chunk(key: Key, tmp_path: Path) -> None:
    loop, reading = asyncio.get_running_loop(), asyncio.Event()
    data = _Endless(lambda: loop.call_soon_threadsafe(reading.set))
    async with Workers() as workers:
        stream = SegmentStream(
            tmp_path,
            workers,
            Buffers(workers),
            durable=False,
            recipients=age.Recipients([key.public]),
            on_bytes=lambda _: None,
        )
        files = [("it", sa.MemorySegment(start=0, data=data))]
        writing = asyncio.create_task(stream.write_all(files))
        await reading.wait()
        writing.cancel()
        for _ in range(100):
            await asyncio.sleep(0)
        data.go.set()
        with pytest.raises(asyncio.CancelledError):
            await writing
    assert data.reads == 2


async def test_told_on_the_event_loop(
    key: Key, spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("big.py", 2 << 20, 1)
    told: list[tuple[sa.Event, int]] = []
    report = await sa.capture_to(
        tracee.pid,
        tmp_path / "it",
        recipients=[key.public],
        durable=False,
        on_event=lambda event: told.append((event, threading.get_ident())),
    )
    assert {thread for _, thread in told} == {threading.get_ident()}
    progress = [event for event, _ in told if isinstance(event, sa.Progress)]
    assert len(progress) > 1
    assert 2 << 20 < progress[-1].done_bytes <= progress[-1].total_bytes
    assert progress[-1].done_bytes < report.written_bytes


async def test_room_for_what_has_no_holes(
    key: Key,
    spawn: Callable[..., Tracee],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracee = spawn("big.py", 64 << 20, 4096)
    room = Room(bytes=32 << 20, inodes=None, block=4096)
    monkeypatch.setattr(stage, "find_room", lambda _: room)
    told: list[sa.Event] = []
    with pytest.raises(sa.NoSpaceError) as caught:
        await sa.capture_to(
            tracee.pid, tmp_path / "it", recipients=[key.public], on_event=told.append
        )
    assert not told
    assert 64 << 20 < caught.value.needed < 100 << 20
    await sa.capture_to(tracee.pid, tmp_path / "it", durable=False)


async def test_what_is_sealed_takes_no_more_than_expected(
    key: Key, tmp_path: Path
) -> None:
    recipients = age.Recipients([key.public] * 5)
    for size in (0, 1, 65535, 65536, 65537, 3 << 20):
        fd = os.open(tmp_path / "it", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            length = recipients.seal_to(fd, age.pieces_of_bytes(bytes(size)))
            assert length == os.fstat(fd).st_size <= recipients.sealed_bytes(size)
            assert age.plain_bytes(fd) == size
        finally:
            os.close(fd)


async def test_a_large_state_is_sealed_in_pieces(
    key: Key, sleeper: Tracee, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pyrage.encrypt keeps the GIL as long as it takes.
    monkeypatch.setattr(pyrage, "encrypt", lambda *_: pytest.fail("all at once"))
    state = os.urandom(3 << 20)
    path = tmp_path / "it"
    await sa.capture_to(sleeper, path, recipients=[key.public], app_state=state)
    async with await sa.Checkpoint.load(path, identities=[key.file]) as checkpoint:
        assert checkpoint.app_state == state


async def test_saved_for_recipients(key: Key, sleeper: Tracee, tmp_path: Path) -> None:
    async with await sa.capture(sleeper) as checkpoint:
        await checkpoint.save(tmp_path / "it", recipients=[key.public])
    assert all(file.suffix == ".age" for file in files_of(tmp_path / "it"))
    assert (await sa.verify(tmp_path / "it", identities=[key.file])).ok


async def test_converted_to_the_clear_with_a_warning(
    key: Key, sleeper: Tracee, tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "it", recipients=[key.public])
    for recipients, warnings in (((), 1), ([key.public], 0)):
        report = await sa.convert(
            tmp_path / "it",
            tmp_path / f"to-{warnings}",
            format="v1",
            identities=[key.file],
            recipients=recipients,
        )
        assert sum("in the clear" in it for it in report.warnings) == warnings


async def test_recipients_are_evaluated_once(
    key: Key, sleeper: Tracee, tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "it", recipients=iter([key.public]))
    loaded = await sa.Checkpoint.load(tmp_path / "it", identities=iter([key.file]))
    await loaded.aclose()
    await sa.capture_to(sleeper, tmp_path / "plain", recipients=None)
    assert (await sa.verify(tmp_path / "plain")).ok


async def test_every_line_of_a_key_counts(
    key: Key, sleeper: Tracee, tmp_path: Path
) -> None:
    if shutil.which("ssh-keygen") is None:
        missing("ssh-keygen")
    ssh = tmp_path / "ssh"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    public = (tmp_path / "ssh.pub").read_text()
    path = tmp_path / "it"
    both = f"# two of us\n\n{key.public}\n  {public}"
    await sa.capture_to(sleeper, path, recipients=[both])
    for identity in (key.file, ssh, str(ssh.read_text())):
        await (await sa.Checkpoint.load(path, identities=[identity])).aclose()

    await sa.capture_to(sleeper, path, recipients=[public], replace=True)
    together = key.file.read_text() + ssh.read_text()
    await (await sa.Checkpoint.load(path, identities=[together])).aclose()


SECRET_KEY = str(pyrage.x25519.Identity.generate())


class Recipient:
    """No recipient of pyrage's."""


@pytest.mark.parametrize(
    ("recipients", "error", "message"),
    [
        (["age1nonsense"], ValueError, "is no recipient"),
        (["x"], ValueError, "is no recipient"),
        (["age1\ud800"], ValueError, "is no recipient"),
        ([" \n# nobody\n"], ValueError, "is empty"),
        ([], ValueError, "there are no recipients"),
        (iter([]), ValueError, "there are no recipients"),
        ([SECRET_KEY], ValueError, "that is a secret key"),
        (["-----BEGIN OPENSSH PRIVATE KEY-----"], ValueError, "that is a secret key"),
        (
            [str(pyrage.x25519.Identity.generate().to_public())] * 800,
            ValueError,
            "800 recipients are too many",
        ),
        (["x"] * 2000, ValueError, "is no recipient"),
        ([7], TypeError, "a recipient is a string"),
        ([SECRET_KEY.encode()], TypeError, "a recipient is a string"),
        ([Recipient()], TypeError, "a recipient is a string"),
        ("age1nonsense", TypeError, "several keys"),
    ],
)
async def test_who_is_no_recipient(
    recipients: list[object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        await sa.capture_to(1, tmp_path / "it", recipients=recipients)
    assert SECRET_KEY not in str(caught.value)
    if error is ValueError:
        assert isinstance(caught.value, sa.UnusableKeyError)
        assert caught.value.help
    assert not os.listdir(tmp_path)


IDENTITIES = {
    "No such file": None,
    "no text": b"\xff\xfe\0",
    "no key in it": b"# public key: age1\n",
    "neither a key": b"hello\n",
    "public key": b"ssh-ed25519 AAAA me\n",
    "Bech32": f"{SECRET_KEY[:-1]}=\n".encode(),
    "incomplete SSH": b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
    "it has a passphrase": HEADER + b"\n-> scrypt\n",
    "too long": bytes(2 << 20),
}


@pytest.mark.parametrize("reason", IDENTITIES)
async def test_what_is_no_identity(reason: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    content = IDENTITIES[reason]
    if content is not None:
        path.write_bytes(content)
    for identity in [path] if content is None else [path, content]:
        with pytest.raises(sa.UnusableKeyError, match=reason) as caught:
            await sa.Checkpoint.load(tmp_path, identities=[identity])
        assert caught.value.path == (path if identity is path else None)
        assert caught.value.help
        assert SECRET_KEY[:30] not in str(caught.value)
        if reason == "too long":
            break  # only a file is limited


async def test_an_identity_with_a_passphrase(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        missing("ssh-keygen")
    for type_, form in (("ed25519", "RFC4716"), ("rsa", "PEM")):
        path = tmp_path / type_
        command = ["ssh-keygen", "-q", "-t", type_, "-m", form, "-N", "secret", "-f"]
        subprocess.run([*command, path], check=True, stdin=subprocess.DEVNULL)
        with pytest.raises(sa.UnusableKeyError, match="has a passphrase") as caught:
            await sa.verify(tmp_path, identities=[path])
        assert "ssh-keygen -p" in caught.value.help


class Identity:
    """No identity of pyrage's."""


@pytest.mark.parametrize("identity", [Identity(), 7])
async def test_what_else_is_no_identity(identity: object, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="an identity is a path"):
        await sa.verify(tmp_path, identities=[identity])


async def test_without_pyrage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrage", None)
    for call in (
        sa.capture_to(1, tmp_path / "it", recipients=["age1"]),
        sa.verify(tmp_path, identities=["AGE-SECRET-KEY-1"]),
    ):
        with pytest.raises(sa.UnusableKeyError, match="not installed") as caught:
            await call
        assert "sandlock-async[crypt]" in caught.value.help


async def test_what_pyrage_does_not_encrypt_for(
    key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise pyrage.EncryptError("Incompatible recipients")

    monkeypatch.setattr(pyrage, "encrypt_io", refuse)
    with pytest.raises(sa.UnusableKeyError, match="Incompatible recipients"):
        await sa.capture_to(1, tmp_path / "it", recipients=[key.public])


async def test_an_operation_has_its_report_in_the_clear(
    key: Key, sleeper: Tracee, tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "it", operation_id="op")
    with pytest.raises(ValueError, match="in the clear"):
        await sa.capture_to(
            sleeper, tmp_path / "it", operation_id="op", recipients=[key.public]
        )


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
    other = Key(tmp_path)
    assert run("verify", path, "--identity", other.file).returncode == 1
    # Keys are typed by people.
    for arguments in (
        ("capture", sleeper.pid, tmp_path / "no", "--recipient", "age1x"),
        ("capture", sleeper.pid, tmp_path / "no", "--recipient", SECRET_KEY),
        (
            *("capture", sleeper.pid, tmp_path / "no", "--recipient", key.public),
            *("--operation-id", "op"),
        ),
        ("verify", path, "--identity", path / "meta.json.age"),
        ("inspect", path, "--identity", path / "meta.json.age"),
        ("convert", path, tmp_path / "no", "--format", "v1", "--recipient", "x"),
    ):
        wrong = run(*arguments)
        assert wrong.returncode == 2, wrong.stderr
        assert b"Traceback" not in wrong.stderr
        assert SECRET_KEY.encode() not in wrong.stderr

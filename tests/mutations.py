"""Images that somebody has tampered with, each made anew from its number.

``python -m tests.mutations 20000`` makes and tries so many, on every CPU, and tells
what came of them; ``--first N`` begins with number N, so that ``1 --first N`` is that
one again. What is tried, and what must hold, is in :mod:`tests.hostility`.
"""

import argparse
import json
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandlock_async.errors import ImageError
from sandlock_async.image import layout
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.image.manifest import Entry, encode_manifest

GOLDEN = Path(__file__).parent / "golden"
PROGRAM = Path(__file__).parent / "programs" / "rich.c"
NOT_AN_IMAGE = "secret"
DEEP = "deep"
"""The name of folders inside each other, too many to be walked through here."""

_LARGE = 16 << 20
_DEEP = (10, 500, 1000, 1023, 1100, 100_000)
TOKENS: tuple[bytes, ...] = (
    *(b"0", b"-1", b"1", b"-0", b"4095", b"65536", b"2147483647", b"2147483648"),
    *(b"4611686018427387904", b"9223372036854775807", b"9223372036854775808"),
    *(b"18446744073709551615", b"18446744073709551616", b"1" + b"0" * 5000),
    *(b"1.5", b"1e308", b"1e400", b"NaN", b"Infinity", b"true", b"false", b"null"),
    *(b'""', b"[]", b"{}", b'"0"', b'"x"', b'"\\ud800"', b'"\\u0000"', b'"\xff"'),
    *(b'"\\u001b]0;owned\\u0007\\u001b[2J"', b'"[/red]"', b'"\\u202e\\n\\r"'),
    *(b'"/etc/passwd"', b'"../../../etc/passwd"', b'"' + b"x" * 100_000 + b'"'),
    *(b'"' + b"f0" * 50_000 + b'"', b'"\xf0\x9f\x92\xa3' + b"\\u0001" * 10_000 + b'"'),
    *(b"[" * depth + b"]" * depth for depth in _DEEP),
    *(b'{"a":' * depth + b"1" + b"}" * depth for depth in _DEEP),
    *(b"[" * 100_000, b"[" + b"0," * 50_000 + b"0]", b"[" + b"{}," * 20_000 + b"{}]"),
)
"""JSON, or nearly, to stand where something else should."""

NAMES = (
    *("../outside", "/etc/passwd", "", ".", "..", "a/../../b", "process", "a//b"),
    *("\0", "a\nb", "\x1b[2J", "x" * 300, "/".join("x" * 2000), "meta.json/x"),
    *("extended/manifest.json", "children/1/meta.json", "nothing", "café"),
)


@dataclass(slots=True)
class Victim:
    """An image that is about to be tampered with.

    :ivar outside: a folder that is none of the image's business
    :ivar sealed: whether the manifest has been made to fit again
    :ivar late: what happens to it when a file of it is opened for the *late_at*-th time
    """

    image: Path
    outside: Path
    chance: random.Random
    notes: list[str] = field(default_factory=list)
    sealed: bool = False
    late: Callable[[], object] | None = None
    late_at: int = 0

    def names(self) -> list[str]:
        """Return the files of the image, by their paths in it."""
        return sorted(
            os.path.relpath(path, self.image)
            for path, is_folder in walk(self.image)
            if not is_folder
        )

    def pick(self, *wanted: str) -> Path:
        """Return one of its regular files, of those that end so if any does."""
        files = [self.image / name for name in self.names()]
        files = [file for file in files if stat.S_ISREG(file.lstat().st_mode)]
        if self.chance.random() < 0.5:  # else it is nearly always one of memory
            files = [it for it in files if not layout.is_memory_file(str(it))] or files
        fitting = [file for file in files if file.name.endswith(wanted)]
        return self.chance.choice(fitting or files)

    def write(self, file: Path, content: bytes) -> None:
        """Put *content* into a file of its own: the sources are linked, not copied."""
        if len(content) > _LARGE:
            raise OSError("that is a large image, and no hostile one")
        remove(file)
        file.write_bytes(content)
        file.chmod(0o600)

    def truncate(self, file: Path, size: int) -> None:
        """Change the length of a file; what is new is a hole."""
        self.write(file, content_of(file)[:size])
        try:
            os.truncate(file, size)
        except OSError:  # more than the file system can
            os.truncate(file, 1 << 43)


def walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield what is in a folder, and whether it is one; :data:`DEEP` ones as they are."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        is_folder = entry.is_dir(follow_symlinks=False)
        yield Path(entry.path), is_folder
        if is_folder and entry.name != DEEP:
            yield from walk(Path(entry.path))


def content_of(file: Path) -> bytes:
    """Return what is in a file, if it is one to be read as a whole."""
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGE:
        raise OSError(f"{file} has been tampered with already")
    return file.read_bytes()


def remove(path: Path) -> None:
    """Remove whatever is there."""
    if path.is_dir() and not path.is_symlink():
        try:
            shutil.rmtree(path)
        except RecursionError:  # folders a thousand deep
            subprocess.run(["rm", "-rf", "--", path], check=True)
    else:
        path.unlink(missing_ok=True)


# -- what is done to bytes -----------------------------------------------------


def flip_bits(victim: Victim) -> None:
    file = victim.pick()
    content = bytearray(content_of(file))
    for _ in range(victim.chance.choice((1, 1, 1, 2, 8)) if content else 0):
        content[victim.chance.randrange(len(content))] ^= 1 << victim.chance.randrange(
            8
        )
    victim.write(file, bytes(content))


def cut(victim: Victim) -> None:
    file = victim.pick()
    victim.truncate(file, victim.chance.randrange(file.stat().st_size + 1))


def lengthen(victim: Victim) -> None:
    file = victim.pick()
    added = victim.chance.choice((b"\0", b" ", b"\n", b"x", b"{}", bytes(4096)))
    victim.write(file, content_of(file) + added * victim.chance.choice((1, 1, 200)))


def make_sparse(victim: Victim) -> None:
    size = 1 << victim.chance.randrange(12, 63)
    victim.truncate(victim.pick(), size - victim.chance.randrange(2))


def overwrite(victim: Victim) -> None:
    file = victim.pick()
    content = bytearray(content_of(file))
    at = victim.chance.randrange(len(content) + 1)
    number = victim.chance.choice((0, 1 << 31, 1 << 62, 1 << 63, (1 << 64) - 1))
    junk = victim.chance.choice(
        (number.to_bytes(8, "little"), victim.chance.randbytes(9), b"\xff" * 64)
    )
    content[at : at + len(junk)] = junk
    victim.write(file, bytes(content))


def splice(victim: Victim) -> None:
    file = victim.pick(".json")
    content = content_of(file)
    at = victim.chance.randrange(len(content) + 1)
    to = min(len(content), at + victim.chance.choice((0, 0, 1, 5, 100)))
    tokens = (*TOKENS, b",", b'"', b"[", b"}", b"\xef\xbb\xbf", b"//", content[at:])
    victim.write(file, content[:at] + victim.chance.choice(tokens) + content[to:])


def encode_anew(victim: Victim) -> None:
    file = victim.pick(".json")
    content = content_of(file)
    encoded: tuple[bytes, ...] = (
        content.decode(errors="replace").encode("utf-16"),
        content + content,
        b" " * (1 << 20) + content,
        b"[" + content + b"]",
        b"\xef\xbb\xbf" + content,
        json.dumps(content.decode(errors="replace")).encode(),
        b"",
    )
    victim.write(file, victim.chance.choice(encoded))


def swap(victim: Victim) -> None:
    one, other = victim.pick(), victim.pick()
    first, second = content_of(one), content_of(other)
    victim.write(one, second)
    if victim.chance.random() < 0.7:
        victim.write(other, first)


def other_policy(victim: Victim) -> None:
    policies = sorted(GOLDEN.glob("v?/policy*/*.dat"))
    content = bytearray(victim.chance.choice(policies).read_bytes())
    for _ in range(victim.chance.choice((0, 1, 3))):
        at = victim.chance.randrange(len(content))
        number = victim.chance.choice((0, 1, 255, 1 << 40, 1 << 63, (1 << 64) - 1))
        content[at : at + 8] = number.to_bytes(8, "little")
    victim.write(victim.image / layout.POLICY, bytes(content))


# -- what is done to JSON ------------------------------------------------------


def change_json(victim: Victim) -> None:
    file = victim.pick(".json")
    try:
        value = json.loads(content_of(file))
    except ValueError:
        return  # tampered with already
    except RecursionError:
        return
    tokens: list[bytes] = []
    for _ in range(victim.chance.choice((1, 1, 2, 5))):
        _change_somewhere(victim.chance, value, tokens)
    victim.write(file, _dumped(value, tokens))


def _change_somewhere(
    chance: random.Random, value: object, tokens: list[bytes]
) -> None:
    place: Any = value
    while isinstance(place, list | dict) and place:
        keys: list[Any] = (
            list(place) if isinstance(place, dict) else [*range(len(place))]
        )
        key = chance.choice(keys)
        if not isinstance(place[key], list | dict) or chance.random() < 0.3:
            _change(chance, place, key, tokens)
            return
        place = place[key]
    if isinstance(place, list):
        place.append(_token(chance, tokens))


def _token(chance: random.Random, tokens: list[bytes]) -> str:
    tokens.append(chance.choice(TOKENS))
    return f"@token {len(tokens) - 1}@"


def _change(chance: random.Random, place: Any, key: Any, tokens: list[bytes]) -> None:
    what = chance.randrange(8)
    if what < 3:
        place[key] = _token(chance, tokens)
    elif what == 3:
        del place[key]
    elif what == 4 and isinstance(place[key], int):
        place[key] += chance.choice((1, -1, 4096, -4096, 1 << 32, 1 << 63))
    elif what == 5 and isinstance(place, list):
        place += [place[key]] * chance.choice((1, 1, 2, 3000))
    elif what == 6 and isinstance(place, list):
        chance.shuffle(place)
    elif isinstance(place, dict):
        place[key] = place[chance.choice(list(place))]
    else:
        place[key] = place[chance.randrange(len(place))]


def _dumped(value: object, tokens: list[bytes]) -> bytes:
    try:
        content = json.dumps(value, indent=2).encode()
    except (RecursionError, ValueError):  # a value inside itself
        return b"[]"
    for number, token in enumerate(tokens):
        content = content.replace(b'"@token %d@"' % number, token)
    return content


def duplicate_keys(victim: Victim) -> None:
    file = victim.pick(".json")
    content = content_of(file)
    victim.write(file, content.replace(b"{", b'{"start": 0, "version": 9,', 1))


def contradict(victim: Victim) -> None:
    """Change one of the things that must fit together."""
    file = victim.image / layout.EXTENDED_PROCESS
    try:
        value: dict[str, Any] = json.loads(content_of(file))
        areas, threads = value["vm_areas"], value["threads"]
        area, thread = victim.chance.choice(areas), victim.chance.choice(threads)
        mapping = area["map"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return
    changes: tuple[Callable[[], object], ...] = (
        lambda: mapping.update(end=mapping["start"]),
        lambda: mapping.update(start=mapping["end"], end=mapping["start"]),
        lambda: mapping.update(end=(1 << 64) - 1),
        lambda: mapping.update(perms=victim.chance.choice(("", "rw", "rwxpx", "\0\0"))),
        lambda: areas.remove(area),
        lambda: areas.append(area),
        lambda: areas.reverse(),
        lambda: value.update(memory_maps=[this["map"] for this in areas[:-1]]),
        lambda: value.update(memory_maps=[this["map"] for this in areas], vm_areas=[]),
        lambda: value.update(segments=[]),
        lambda: value.update(segments=value["segments"] * 2),
        lambda: value.update(segments=[{"start": mapping["start"], "size": 1 << 62}]),
        lambda: thread.update(regs=thread["regs"][:5]),
        lambda: thread.update(regs=[1] * 1000),
        lambda: threads.clear(),
        lambda: threads.reverse(),
        lambda: threads.extend(threads * 500),
        lambda: value.update(arch=victim.chance.choice((None, "vax", "x86_64", ""))),
        lambda: value.update(fds=value["fds"] * 400),
        lambda: value.update(fds=[]),
        lambda: value.update(
            skipped=[{"start": 9, "end": 0, "path": "", "reason": ""}]
        ),
    )
    victim.chance.choice(changes)()
    victim.write(file, json.dumps(value, indent=2).encode())


def blow_up(victim: Victim) -> None:
    """Make a mapping huge, and its memory file too: a hole that fits."""
    for name in (layout.MEMORY_MAP, layout.EXTENDED_PROCESS):
        try:
            content = content_of(victim.image / name)
        except OSError:
            continue
        victim.write(victim.image / name, content.replace(b"[stack]", b"[heap2]"))
    try:
        value = json.loads(content_of(victim.image / layout.MEMORY_MAP))
        number, last = max(enumerate(value), key=lambda item: item[1]["start"])
        old, size = last["end"], 1 << victim.chance.randrange(24, 44)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return
    for name in (layout.MEMORY_MAP, layout.EXTENDED_PROCESS):
        file = victim.image / name
        if file.exists():
            new = str(last["start"] + size).encode()
            victim.write(file, content_of(file).replace(str(old).encode(), new))
    for stem in (str(number), f"{last['start']:x}"):
        for folder in (layout.MEMORY, layout.EXTENDED_MEMORY):
            file = victim.image / folder / f"{stem}.bin"
            if file.is_file():
                victim.truncate(file, size)


def other_version(victim: Victim) -> None:
    file = victim.image / layout.META
    version = victim.chance.choice((*TOKENS, b"2", b"3", b"4", b'"3"', b"2.0"))
    victim.write(
        file, b'{"name": "it", "cow_snapshot": null, "version": ' + version + b"}"
    )


def change_manifest(victim: Victim) -> None:
    """Sign what cannot be: names that lead elsewhere, and sizes that cannot be."""
    file = victim.image / layout.MANIFEST
    try:
        listed = json.loads(content_of(file))["files"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return
    entries = [
        Entry(name=it["name"], size=it["size"], blake3=bytes.fromhex(it["blake3"]))
        for it in listed
    ]
    size = victim.chance.choice((0, 1, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 1))
    entry = Entry(name=victim.chance.choice(NAMES), size=size, blake3=bytes(32))
    match victim.chance.randrange(4):
        case 0:
            entries.append(entry)
        case 1:
            entries.append(victim.chance.choice(entries))
        case 2:
            entries += [
                Entry(name=f"x{number}", size=size, blake3=bytes(32))
                for number in range(10_000)
            ]
        case _:
            entries.remove(victim.chance.choice(entries))
    victim.write(file, encode_manifest(entries))


# -- what is done to files -----------------------------------------------------


def _copy(source: str | Path, target: str | Path) -> None:
    """Copy a file as it is; of what is huge, nothing: its holes would be filled."""
    try:
        Path(target).write_bytes(content_of(Path(source)))
    except OSError:
        Path(target).touch()


def _make_link(victim: Victim, place: Path) -> None:
    kept = victim.outside / "kept"
    if not kept.exists():  # what it leads to is all as it should be
        if place.is_symlink():
            pass
        elif place.is_dir():
            shutil.copytree(place, kept, symlinks=True, copy_function=_copy)
        else:
            _copy(place, kept)
    remove(place)
    targets = (
        *(victim.outside / NOT_AN_IMAGE, victim.outside, kept, kept, "/etc/passwd"),
        *("/dev/null", "/dev/zero", "/proc/self/mem", place, "nowhere", "meta.json"),
        *("/", ".", "..", "/proc/self/fd/0", victim.outside / "pipe"),
    )
    place.symlink_to(victim.chance.choice(targets))


def _make_device(_: Victim, place: Path) -> None:
    try:
        os.mknod(place, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        os.mkfifo(place)


def _make_socket(_: Victim, place: Path) -> None:
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{folder}/{place.name}"[:100])
    finally:
        os.close(folder)


def _make_folder(victim: Victim, place: Path) -> None:
    place.mkdir()
    if victim.chance.random() < 0.5:
        (place / "inner").write_bytes(b"")


def put_something_else(victim: Victim) -> None:
    place = victim.pick()
    if victim.chance.random() < 0.3 and place.parent != victim.image:
        place = place.parent
    makers: tuple[Callable[[Victim, Path], None], ...] = (
        *(_make_link, _make_link, _make_link, _make_device, _make_socket),
        *(_make_folder, lambda _, place: os.mkfifo(place), lambda *_: None),
    )
    make = victim.chance.choice(makers)
    if make is not _make_link:
        remove(place)
    make(victim, place)


def add(victim: Victim) -> None:
    chance, image = victim.chance, victim.image
    bad = os.fsdecode(b"\xff\xfe\n\x1b[2J")
    folder = image / chance.choice(("", *layout.DIRECTORIES))
    if not folder.is_dir():
        return
    names = (bad, "thesis.txt", ".hidden", "0x10.bin", "-1.bin", "x" * 255, "manifest")
    match chance.randrange(6):
        case 0:
            (folder / chance.choice(names)).write_bytes(b"x")
        case 1:
            _make_link(victim, folder / chance.choice(names))
        case 2:
            os.mkfifo(folder / chance.choice(names))
        case 3:
            for number in range(chance.choice((10, 2000))):
                (folder / f"{number}.extra").touch()
        case 4:
            _nest(folder, chance.choice((3, 300, 1500)))
        case _:
            names = ("abc", "007", "٣", "²", "0", "-1", "1" * 200, "1", bad)
            child = image / layout.CHILDREN / chance.choice(names)
            child.parent.mkdir(exist_ok=True)
            if chance.random() < 0.5:
                shutil.copytree(
                    GOLDEN / "v1" / "sleep", child, dirs_exist_ok=True, symlinks=True
                )
            elif not child.exists():
                _make_link(victim, child)


def _nest(folder: Path, depth: int) -> None:
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(DEEP, dir_fd=fd)
        inner = os.open(DEEP, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


def drop(victim: Victim) -> None:
    place = victim.pick()
    whole = victim.chance.random() < 0.1 and place.parent != victim.image
    remove(place.parent if whole else place)


def later(victim: Victim) -> None:
    """Have it happen while the image is read."""
    victim.late_at = victim.chance.randrange(1, 120)
    seed = victim.chance.random()
    kind = victim.chance.choice(
        (flip_bits, cut, drop, put_something_else, make_sparse, swap, lengthen)
    )

    def happen() -> None:
        victim.chance = random.Random(seed)
        victim.notes.append(f"then {kind.__name__}")
        kind(victim)

    victim.late = happen


KINDS: tuple[Callable[[Victim], None], ...] = (
    *(flip_bits, flip_bits, cut, lengthen, make_sparse, overwrite, splice, splice),
    *(encode_anew, swap, other_policy, change_json, change_json, change_json),
    *(duplicate_keys, contradict, contradict, blow_up, other_version, change_manifest),
    *(put_something_else, put_something_else, put_something_else, add, add, drop),
    *(later, later),
)


def tamper(chance: random.Random, sources: list[Path], folder: Path) -> Victim:
    """Make one by *chance*, in ``image`` and ``outside`` of *folder*."""
    source = chance.choice(sources)
    shutil.copytree(source, folder / "image", copy_function=os.link, symlinks=True)
    outside = folder / "outside"
    outside.mkdir()
    (outside / NOT_AN_IMAGE).write_bytes(b"nobody's business")
    os.mkfifo(outside / "pipe")
    victim = Victim(folder / "image", outside, chance, [source.name])
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        kind = chance.choice(KINDS)
        victim.notes.append(kind.__name__)
        try:
            kind(victim)
        except (
            OSError,
            LookupError,
            ValueError,
            MemoryError,
        ) as error:  # not there now
            victim.notes.append(f"({error})")
    if chance.random() < 0.4:
        seal(victim.image)
        victim.sealed = True
    return victim


def seal(image: Path) -> None:
    """Make the manifests of an image, and of its descendants, fit what is there."""
    children = sorted((image / layout.CHILDREN).glob("*"))
    for place in (*children, image):
        if not (place / layout.MANIFEST).is_file():
            continue
        directory = ImageDirectory(place)
        entries: list[Entry] = []
        try:
            for name, status in directory.walk():
                if stat.S_ISREG(status.st_mode) and name != layout.MANIFEST:
                    summed = directory.sum(name, status.st_size)
                    entries.append(Entry(name=name, size=status.st_size, blake3=summed))
            content = encode_manifest(entries)
        except (ValueError, TypeError, ImageError):  # a name that JSON cannot hold
            continue
        finally:
            directory.close()
        (place / layout.MANIFEST).unlink()
        (place / layout.MANIFEST).write_bytes(content)


# -- many ----------------------------------------------------------------------


def make_sources(program: Path, folder: Path) -> list[Path]:
    """Capture a process in each layout, and with its child; return all there is."""
    folder.mkdir()
    status = folder / "status"
    status.write_bytes(bytes(4096))
    with subprocess.Popen([program, status]) as process:
        while not status.read_bytes()[0]:
            assert process.poll() is None
        code = (
            "import asyncio, sys, sandlock_async as sa\n"
            "async def main(pid, folder):\n"
            "    for format in 'v1', 'v2', 'v3':\n"
            "        await sa.capture_to(pid, f'{folder}/{format}', format=format,\n"
            "            app_state=b'mine', durable=False)\n"
            "    for format in 'v1', 'v3':\n"
            "        await sa.capture_to(pid, f'{folder}/tree-{format}', tree=True,\n"
            "            format=format, durable=False)\n"
            "asyncio.run(main(int(sys.argv[1]), sys.argv[2]))\n"
        )
        try:
            subprocess.run(
                [sys.executable, "-c", code, str(process.pid), folder], check=True
            )
        finally:
            process.kill()
    status.unlink()
    for name in ("sleep", "sleep-state"):
        shutil.copytree(GOLDEN / "v1" / name, folder / name)
    return sorted(folder.iterdir())


def run(sources: Path, folder: Path, first: int, count: int, jobs: int) -> list[Any]:
    """Try *count* images from number *first* on, and return what came of each."""
    share = -(-count // jobs)
    processes = []
    for job in range(jobs):
        start = first + job * share
        last = min(start + share, first + count)
        place = folder / f"job-{job}"
        place.mkdir()
        command = [sys.executable, "-m", "tests.hostility", sources, place, start, last]
        with (
            (folder / f"job-{job}.out").open("wb") as out,
            (folder / f"job-{job}.err").open("wb") as err,
        ):
            processes.append(
                subprocess.Popen(
                    list(map(str, command)),
                    stdout=out,
                    stderr=err,
                    stdin=subprocess.DEVNULL,
                )
            )
    found: list[Any] = []
    for job, process in enumerate(processes):
        code = process.wait()
        lines = (folder / f"job-{job}.out").read_bytes().splitlines()
        found += [json.loads(line) for line in lines]
        if code:
            told = (folder / f"job-{job}.err").read_text(errors="replace")
            number = first + job * share + len(lines)
            problem = f"ended with {code}: {told[-4000:]}"
            found.append({"number": number, "problems": [problem]})
    return found


def main() -> int:
    """Try as many as are asked for, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations")
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", help="where to work; on a tmpfs files get larger")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        program = folder / "rich"
        subprocess.run(["gcc", "-O1", "-pthread", "-o", program, PROGRAM], check=True)
        make_sources(program, folder / "sources")
        found = run(folder / "sources", folder, given.first, given.count, given.jobs)
    bad = [it for it in found if it["problems"]]
    for it in bad:
        print(json.dumps(it, indent=1))
    done = [it for it in found if "errors" in it]
    outcomes: dict[str, int] = {}
    for it in done:
        for error in it["errors"].values():
            outcomes[error] = outcomes.get(error, 0) + 1
    print(f"{len(done)} images, {len(bad)} with problems")
    print(f"what was said: {dict(sorted(outcomes.items()))}")
    if done:
        slow = max(done, key=lambda it: it["cpu_s"])
        large = max(done, key=lambda it: it["memory"])
        print(f"slowest: {slow['cpu_s']:.3f} s of CPU, number {slow['number']}")
        print(f"largest: {large['memory'] / 2**20:.1f} MiB, number {large['number']}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())

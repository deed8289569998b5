"""``extended/manifest.json``: the size and sum of every file, and one over all.

An image written by sandlock has none.
"""

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3

from sandlock_async.image import layout
from sandlock_async.image.process_json import dumps
from sandlock_async.image.strict_json import U64, Fields, Malformed, loads
from sandlock_async.image.sums import sum_of

_VERSION = 1
_PART = re.compile(r"(?!\.{1,2}\Z)[^/\0]+\Z")
_SIZES = range(1 << 63)
"""What a file can have, off_t; nor has anything in Python a longer length."""

_HEX = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file.

    :ivar name: its path from the image's folder
    :ivar size: bytes, holes included
    :ivar blake3: its sum (:mod:`sandlock_async.image.sums`)
    """

    name: str
    size: int
    blake3: bytes


def encode_manifest(entries: Sequence[Entry]) -> bytes:
    """Return the manifest of files, which it has by their names."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    return dumps(
        {
            "version": _VERSION,
            "files": [
                {"name": this.name, "size": this.size, "blake3": this.blake3.hex()}
                for this in ordered
            ],
            "root": _root(ordered).hex(),
        }
    )


def decode_manifest(content: bytes) -> dict[str, Entry]:
    """Return the files of a manifest, by name.

    :raises Malformed: if it is none, or a single bit of it has changed
    """
    fields = Fields(loads(content), "manifest")
    version = fields.integer("version", U64)
    if version != _VERSION:
        raise Malformed(f"version {version} is unknown, expected {_VERSION}")
    entries = fields.items("files", _decode_entry)
    # Byte for byte what we write: whatever else it says was said by nobody.
    if encode_manifest(entries) != content:
        raise Malformed("its root hash is not that of what it lists")
    found = {entry.name: entry for entry in entries}
    if len(found) < len(entries):
        raise Malformed("it lists a file twice")
    return found


def entry_of(name: str, content: bytes) -> Entry:
    """Return the entry of a file with that *content*."""
    return Entry(name=name, size=len(content), blake3=sum_of(content))


def manifest_of(entries: Mapping[str, Entry], folder: str = "") -> bytes:
    """Return the manifest of an image, or of one in a *folder* of it."""
    return encode_manifest(
        [
            Entry(name=name[len(folder) :], size=it.size, blake3=it.blake3)
            for name, it in entries.items()
            if name.startswith(folder)
        ]
    )


def _decode_entry(fields: Fields) -> Entry:
    name = fields.text("name")
    if not all(map(_PART.match, name.split("/"))) or name == layout.MANIFEST:
        raise Malformed(f"{reprlib.repr(name)} is no name of a file in an image")
    summed = fields.text("blake3")
    if not _HEX.match(summed):
        raise Malformed(f"the blake3 of {reprlib.repr(name)} is not one")
    size = fields.integer("size", _SIZES)
    return Entry(name=name, size=size, blake3=bytes.fromhex(summed))


def _root(entries: Sequence[Entry]) -> bytes:
    hasher = blake3()
    for this in entries:
        hasher.update(this.name.encode(errors="surrogatepass") + b"\0")
        hasher.update(this.size.to_bytes(8, "little"))
        hasher.update(this.blake3)
    return hasher.digest()

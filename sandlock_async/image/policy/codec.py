"""A policy as values, and as the bytes of ``policy.dat``."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from sandlock_async.image import bincode
from sandlock_async.image.bincode import Struct
from sandlock_async.image.policy import v1, v2, v3
from sandlock_async.image.policy.schema import Field
from sandlock_async.image.strict_json import Malformed

VERSIONS: dict[str, tuple[Field, ...]] = {
    "v1": v1.FIELDS,
    "v2": v2.FIELDS,
    "v3": v3.FIELDS,
}
"""The fields of each version: sandlock 0.8.2, 0.8.6 and 0.9.0."""

MAX_BYTES = 2 << 20
"""Real ones have some kilobytes; as values, numbers take twenty times their bytes."""

MAX_ITEMS = 1 << 14
"""Rules, paths, variables and so on in all lists together. Each is some microseconds'
work, at every step between two versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a sandbox may do, as sandlock stores it.

    :ivar version: ``v1``, ``v2`` or ``v3``
    :ivar fields: every field of that version's ``Sandbox`` by name, in order. The
        values are those of JSON: an enum is ``"Name"`` or ``{"Name": payload}``, a
        map a list of ``[key, value]`` in stored order, an absent option None. Not
        to be changed in place: make another with ``dataclasses.replace``.
    """

    version: str
    fields: Mapping[str, object]


def fields_of(version: str) -> tuple[Field, ...]:
    """Return the fields of a version.

    :raises ValueError: if there is no such version
    """
    if version not in VERSIONS:
        known = ", ".join(repr(known) for known in VERSIONS)
        raise ValueError(f"unknown policy version {version!r}: {known} are known")
    return VERSIONS[version]


def decode_policy(version: str, data: bytes) -> Policy:
    """Return the policy that *data* is in a known version.

    The bytes do not tell their version, and many decode under another one when
    the last of them may be left over: every byte must be used up here.

    :raises Malformed: naming the field that is wrong; a :exc:`ValueError`
    :raises ValueError: if there is no such version
    """
    kind = _struct(version)
    if len(data) > MAX_BYTES:
        raise Malformed(f"policy: {len(data)} bytes are too many")
    try:
        fields = bincode.decode(kind, data, MAX_ITEMS)
    except Malformed as error:
        raise Malformed(f"policy{error}") from None
    return Policy(version=version, fields=cast("dict[str, object]", fields))


def encode_policy(policy: Policy) -> bytes:
    """Return the bytes of ``policy.dat``.

    :raises Malformed: naming the field that is missing, unknown, or not of its
        type and range; a :exc:`ValueError`
    """
    try:
        return bincode.encode(_struct(policy.version), policy.fields)
    except Malformed as error:
        raise Malformed(f"policy{error}") from None


def default_policy(version: str) -> Policy:
    """Return what that version stores for ``Sandbox()``: 131, 176 or 173 bytes.

    :raises ValueError: if there is no such version
    """
    fields = {field.name: field.default() for field in fields_of(version)}
    return Policy(version=version, fields=fields)


@lru_cache
def _struct(version: str) -> Struct:
    return Struct(tuple((field.name, field.kind) for field in fields_of(version)))

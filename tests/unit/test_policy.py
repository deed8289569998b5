"""policy.dat: as three releases of sandlock write it, and nothing believed of others."""

import json
import random
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_async.image import bincode
from sandlock_async.image.bincode import (
    Bool,
    ByteArray,
    Enum,
    Kind,
    Option,
    Struct,
    Text,
    Tuple,
    UInt,
    Vec,
)
from sandlock_async.image.policy import (
    DEFAULT_V1,
    VERSIONS,
    Policy,
    decode_policy,
    default_policy,
    encode_policy,
)
from sandlock_async.image.policy.codec import MAX_BYTES, MAX_ITEMS
from sandlock_async.image.policy.conversion import convert_policy
from sandlock_async.image.strict_json import Malformed
from tests.unit.policies import (
    CASES,
    GOLDEN,
    POLICIES,
    QUICK,
    changed,
    name_of,
    version_of,
)

SIZES = {"v1": 131, "v2": 176, "v3": 173}


def full(version: str) -> bytes:
    return (GOLDEN / version / "policy-crafted" / "full.dat").read_bytes()


# What sandlock wrote


@pytest.mark.parametrize("path", CASES, ids=name_of)
def test_what_sandlock_wrote_comes_out_as_it_was(path: Path) -> None:
    expected = json.loads(path.read_bytes())["fields"]
    data = path.with_suffix(".dat").read_bytes()

    policy = decode_policy(version_of(path), data)

    assert policy.fields == expected
    assert list(policy.fields) == list(expected)
    assert encode_policy(policy) == data


@pytest.mark.parametrize("path", CASES, ids=name_of)
def test_no_other_version_takes_it(path: Path) -> None:
    data = path.with_suffix(".dat").read_bytes()
    for version in VERSIONS:
        if version != version_of(path):
            with pytest.raises(Malformed):
                decode_policy(version, data)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_defaults(version: str) -> None:
    stored = json.loads((GOLDEN / version / "policy" / "default.json").read_bytes())
    readable = stored["kwargs"]["fs_readable"]

    assert len(encode_policy(default_policy(version))) == SIZES[version]
    assert changed(version, fs_readable=readable).fields == stored["fields"]


def test_defaults_are_made_anew() -> None:
    default_policy("v1").fields["fs_readable"].append("/")  # type: ignore[attr-defined]

    assert default_policy("v1").fields["fs_readable"] == []
    assert encode_policy(default_policy("v1")) == DEFAULT_V1


@pytest.mark.parametrize("version", VERSIONS)
def test_any_policy_survives(version: str) -> None:
    @QUICK
    @given(POLICIES[version])
    def survives(fields: dict[str, object]) -> None:
        policy = Policy(version=version, fields=fields)
        assert decode_policy(version, encode_policy(policy)) == policy

    survives()


# Bytes that are none


@pytest.mark.parametrize("version", VERSIONS)
def test_truncation_at_every_byte(version: str) -> None:
    whole = full(version)
    for length in range(len(whole)):
        with pytest.raises(Malformed, match=r"^policy"):
            decode_policy(version, whole[:length])


@pytest.mark.parametrize("version", VERSIONS)
def test_bytes_after_the_end(version: str) -> None:
    with pytest.raises(Malformed, match="1 bytes after the end"):
        decode_policy(version, full(version) + b"\0")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_bit_flipped(version: str) -> None:
    whole = full(version)
    for at in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        try:
            policy = decode_policy(version, bytes(flipped))
        except Malformed:
            continue
        assert encode_policy(policy) == flipped


@pytest.mark.parametrize("version", VERSIONS)
def test_garbage_is_refused_quickly(version: str) -> None:
    rng = random.Random(1)
    started = time.process_time()
    for _ in range(2000):
        data = bytearray(rng.choice((full(version), bytes(300))))
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
        try:
            policy = decode_policy(version, bytes(data))
        except Malformed:
            continue
        assert encode_policy(policy) == data

    assert time.process_time() - started < 20


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("count", [1 << 63, (1 << 64) - 1, 1 << 40, 3])
def test_a_count_that_cannot_be_costs_nothing(version: str, count: int) -> None:
    tracemalloc.start()
    with pytest.raises(Malformed, match=r"policy\.fs_writable"):
        decode_policy(version, count.to_bytes(8, "little") + b"ab")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 100_000


@pytest.mark.parametrize("version", VERSIONS)
@QUICK
@given(st.data())
def test_any_bytes(version: str, data: st.DataObject) -> None:
    content = data.draw(st.binary() | st.just(full(version)))
    at = data.draw(st.integers(0, len(content)))
    junk = data.draw(st.binary(max_size=9) | st.integers(0, 1 << 63).map(little))
    content = content[:at] + junk + content[at + len(junk) :]
    try:
        policy = decode_policy(version, content)
    except Malformed:
        return
    assert encode_policy(policy) == content
    for other in VERSIONS:
        converted, _ = convert_policy(policy, other)
        encode_policy(converted)


def little(number: int) -> bytes:
    return number.to_bytes(8, "little")


def test_too_many_items() -> None:
    def paths(count: int) -> bytes:
        wanted = changed("v3", fs_writable=["/x"] * count)
        return encode_policy(wanted)

    assert len(paths(MAX_ITEMS)) < MAX_BYTES
    decode_policy("v3", paths(MAX_ITEMS))
    with pytest.raises(Malformed, match="fs_writable: 16385 elements are too many"):
        decode_policy("v3", paths(MAX_ITEMS + 1))


@pytest.mark.parametrize("wrong", [True, -1, 1 << 16, "80", 1.0, None])
def test_a_wrong_number_among_many_is_named(wrong: object) -> None:
    ports = [*range(1 << 16), wrong]
    with pytest.raises(Malformed, match=r"http_ports\[65536\]"):
        encode_policy(changed("v3", http_ports=ports))


def test_as_large_as_can_be_takes_no_time() -> None:
    rule = {"protocol": "Tcp", "target": "AnyIp", "ports": [], "all_ports": False}
    ports = [*range(1 << 16)] * 8
    policy = changed("v3", net_allow=[rule] * MAX_ITEMS, http_ports=ports)
    data = encode_policy(policy)
    started = time.process_time()

    decoded = decode_policy("v3", data)
    for version in VERSIONS:
        convert_policy(decoded, version)

    assert time.process_time() - started < 2
    assert decoded == policy


def test_too_many_bytes() -> None:
    with pytest.raises(Malformed, match="too many"):
        decode_policy("v3", bytes(MAX_BYTES + 1))


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (Bool(), b"\2", "byte 2 instead of 0 or 1"),
        (Option(UInt(1)), b"\2\0", "byte 2 instead of 0 or 1"),
        (Text(), bytes([1, 0, 0, 0, 0, 0, 0, 0, 0xFF]), "not UTF-8"),
        (Text(), bytes([3, 0, 0, 0, 0, 0, 0, 0, 0xED, 0xA0, 0x80]), "not UTF-8"),
        (Enum((("A", None),)), b"\1\0\0\0", "variant 1 of 1"),
        (Vec(Bool()), b"\2\0\0\0\0\0\0\0\0\7", r"\[1\]: byte 7"),
        (UInt(8, limit=9), b"\n" + bytes(7), "10 is more than 9"),
    ],
)
def test_a_wrong_byte(kind: Kind, data: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        bincode.decode(kind, data)


@pytest.mark.parametrize("item", [Struct(()), Tuple(()), ByteArray(0)])
def test_elements_of_no_size_are_no_elements(item: Kind) -> None:
    with pytest.raises(TypeError, match="no size"):
        Vec(item)


# Values that are none


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_cpu", 256),
        ("max_cpu", -1),
        ("max_cpu", True),
        pytest.param("max_cpu", 10**5000, id="huge"),
        ("max_cpu", "1"),
        ("clean_env", 1),
        ("cwd", b"/"),
        ("cwd", "\udcff"),
        ("fs_readable", "/"),
        ("fs_readable", [None]),
        ("fs_mount", [["/"]]),
        ("env", {"A": "1"}),
        ("on_exit", "Never"),
        ("net_allow_bind", {"Ports": [65536]}),
        ("net_allow_bind", {"All": None}),
        ("net_allow", [{"protocol": "Tcp"}]),
        ("user", {"uid": 1, "gid": 2, "shell": 3}),
        ("time_start", {"secs_since_epoch": 1 << 63, "nanos_since_epoch": 0}),
    ],
)
def test_a_value_of_another_type_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^policy\.{name}"):
        encode_policy(changed("v3", **{name: value}))


def test_unknown_and_missing_fields_are_named() -> None:
    with pytest.raises(ValueError, match=r"policy\.net_bind: no such field"):
        encode_policy(changed("v2", net_bind=[]))
    with pytest.raises(ValueError, match=r"policy\.fs_writable: missing"):
        encode_policy(Policy(version="v2", fields={}))


def test_an_unknown_version() -> None:
    for call in (
        lambda: default_policy("v4"),
        lambda: decode_policy("v4", b""),
        lambda: encode_policy(Policy(version="v4", fields={})),
    ):
        with pytest.raises(ValueError, match="'v4'"):
            call()

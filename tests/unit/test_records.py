"""Dataclasses to JSON and back; nothing of another type or range passes."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_async.image.extended import Extended
from sandlock_async.image.records import decode_record, encode_record
from sandlock_async.image.strict_json import Malformed
from sandlock_async.model import Limit, QueuedSignal, ThreadState


@dataclass(frozen=True, slots=True, kw_only=True)
class Cat:
    kind: ClassVar[str] = "cat"
    lives: Annotated[int, range(10)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dog:
    kind: ClassVar[str] = "dog"
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Zoo:
    animals: tuple[Cat | Dog, ...]
    sign: bytes
    opened: bool
    fee: int | None = None


ZOO = Zoo(animals=(Cat(lives=9), Dog(name="rex")), sign=b"\xff\0", opened=True)
ENCODED = {
    "animals": [{"kind": "cat", "lives": 9}, {"kind": "dog", "name": "rex"}],
    "sign": "ff00",
    "opened": True,
    "fee": None,
}


def test_there_and_back() -> None:
    assert encode_record(ZOO) == ENCODED
    assert decode_record(Zoo, orjson.loads(orjson.dumps(ENCODED)), "zoo") == ZOO


def test_what_has_a_default_may_be_absent_and_what_is_unknown_there() -> None:
    fewer = {key: value for key, value in ENCODED.items() if key != "fee"}

    assert decode_record(Zoo, {**fewer, "more": [1]}, "zoo") == ZOO


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"animals": None}, "zoo.animals"),
        ({"animals": [5]}, "zoo.animals"),
        ({"animals": [{"kind": "cow"}]}, "'cow'"),
        ({"animals": [{"lives": 3}]}, "kind"),
        ({"animals": [{"kind": "cat", "lives": 10}]}, "lives"),
        ({"animals": [{"kind": "cat", "lives": True}]}, "lives"),
        ({"animals": [{"kind": "dog", "name": 1}]}, "name"),
        ({"sign": "f"}, "sign"),
        ({"sign": 5}, "sign"),
        ({"opened": 1}, "opened"),
        ({"fee": -1}, "fee"),
        ({"fee": 1 << 64}, "fee"),
        ({"fee": 1.0}, "fee"),
    ],
)
def test_malformed(change: dict[str, object], place: str) -> None:
    with pytest.raises(Malformed, match=place):
        decode_record(Zoo, {**ENCODED, **change}, "zoo")


u64 = st.integers(0, (1 << 64) - 1)
threads = st.builds(
    ThreadState,
    tid=st.integers(1, 1 << 22),
    regs=st.lists(u64, max_size=27).map(tuple),
    name=st.none() | st.text(max_size=15),
    xstate=st.binary(max_size=64),
    signal_mask=st.none() | u64,
    queued=st.lists(
        st.builds(QueuedSignal, signal=st.integers(1, 64), siginfo=st.binary()),
        max_size=3,
    ).map(tuple),
)


@given(st.builds(Extended, version=st.just(1), threads=st.tuples(threads)))
def test_of_an_image(extended: Extended) -> None:
    encoded = orjson.loads(orjson.dumps(encode_record(extended)))

    assert decode_record(Extended, encoded, "process") == extended


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_anything_else_is_malformed(value: object) -> None:
    for record in (Extended, Limit, Zoo):
        with pytest.raises(Malformed):
            decode_record(record, value, "it")

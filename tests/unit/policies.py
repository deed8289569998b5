"""Policies to test with: those that sandlock wrote, and any others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

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
from sandlock_async.image.policy import VERSIONS, Policy, default_policy

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = sorted(GOLDEN.glob("v?/policy*/*.json"))
STORED = [path for path in CASES if path.parent.name == "policy"]


def version_of(path: Path) -> str:
    return path.parent.parent.name


def name_of(path: Path) -> str:
    return f"{version_of(path)}-{path.parent.name}-{path.stem}"


def changed(version: str, **fields: object) -> Policy:
    policy = default_policy(version)
    return replace(policy, fields={**policy.fields, **fields})


def values(kind: Kind) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of *kind*."""
    match kind:
        case UInt():
            return st.integers(0, kind.maximum) | st.sampled_from([0, kind.maximum])
        case Bool():
            return st.booleans()
        case Text():
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
        case ByteArray(size):
            return st.lists(st.integers(0, 255), min_size=size, max_size=size)
        case Option(item):
            return st.none() | values(item)
        case Vec(item):
            return st.lists(values(item), max_size=3)
        case Tuple(items):
            return st.tuples(*map(values, items)).map(list)
        case Struct(fields):
            return st.fixed_dictionaries({name: values(of) for name, of in fields})
        case Enum(variants):
            return st.one_of(
                st.just(name)
                if of is None
                else st.fixed_dictionaries({name: values(of)})
                for name, of in variants
            )
    raise AssertionError(kind)


POLICIES = {
    version: st.fixed_dictionaries({this.name: values(this.kind) for this in fields})
    for version, fields in VERSIONS.items()
}
QUICK = settings(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

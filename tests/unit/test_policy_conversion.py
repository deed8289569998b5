"""Policies of one version as another's: what is kept, what is said to be lost."""

from pathlib import Path

import pytest
from hypothesis import given, settings

from sandlock_async.image.policy import (
    VERSIONS,
    Policy,
    convert_policy,
    decode_policy,
    default_policy,
    encode_policy,
)
from tests.unit.policies import (
    GOLDEN,
    POLICIES,
    QUICK,
    STORED,
    changed,
    name_of,
    version_of,
)


@pytest.mark.parametrize("version", VERSIONS)
def test_any_policy_converts_to_what_can_be_encoded(version: str) -> None:
    @settings(QUICK, max_examples=100)
    @given(POLICIES[version])
    def converts(fields: dict[str, object]) -> None:
        for target in VERSIONS:
            policy, warnings = convert_policy(
                Policy(version=version, fields=fields), target
            )
            assert policy.version == target
            assert list(policy.fields) == [this.name for this in VERSIONS[target]]
            encode_policy(policy)
            if VERSIONS[target] is VERSIONS[version]:
                assert policy.fields == fields and not warnings

    converts()


@pytest.mark.parametrize(
    "path", [p for p in STORED if version_of(p) == "v1"], ids=name_of
)
def test_v1_survives_v3(path: Path) -> None:
    policy = decode_policy("v1", path.with_suffix(".dat").read_bytes())

    later, warnings = convert_policy(policy, "v3")
    back, more = convert_policy(later, "v1")

    assert not warnings and not more
    assert back == policy


@pytest.mark.parametrize(
    "path", [p for p in STORED if version_of(p) == "v2"], ids=name_of
)
def test_v2_survives_v3(path: Path) -> None:
    policy = decode_policy("v2", path.with_suffix(".dat").read_bytes())

    later, warnings = convert_policy(policy, "v3")
    back, more = convert_policy(later, "v2")

    assert not warnings and not more
    assert back == policy


@pytest.mark.parametrize(
    "case", ["net_tcp", "http", "http_ca", "user", "cow", "limits"]
)
def test_v2_becomes_what_the_next_release_stores(case: str) -> None:
    def stored(version: str) -> Policy:
        path = GOLDEN / version / "policy" / f"{case}.dat"
        return decode_policy(version, path.read_bytes())

    converted, warnings = convert_policy(stored("v2"), "v3")

    expected = dict(stored("v3").fields)
    if case == "cow":  # the directory of changes has a random name
        expected["fs_readable"] = converted.fields["fs_readable"]
    if expected["max_processes"] is None:
        expected["max_processes"] = 64
    assert converted.fields == expected
    assert not warnings


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_unlimited_processes(version: str) -> None:
    older, warnings = convert_policy(default_policy("v3"), version)

    assert older.fields["max_processes"] == (1 << 32) - 1
    assert not warnings
    assert convert_policy(older, "v3") == (default_policy("v3"), ())


def cidr(*octets: int, bits: int) -> dict[str, object]:
    family = "V4" if len(octets) == 4 else "V6"
    return {"Cidr": {"addr": {family: list(octets)}, "prefix_len": bits}}


def rule(target: object, *ports: int, protocol: str = "Tcp") -> dict[str, object]:
    return {
        "protocol": protocol,
        "target": target,
        "ports": list(ports),
        "all_ports": not ports,
    }


def allow(host: object, *ports: int, protocol: str = "Tcp") -> dict[str, object]:
    all_ports = not ports and protocol != "Icmp"
    return {
        "protocol": protocol,
        "host": host,
        "ports": list(ports),
        "all_ports": all_ports,
    }


@pytest.mark.parametrize(
    ("older", "later"),
    [
        (allow("h", 80), rule({"Host": "h"}, 80)),
        (allow(None), rule("AnyIp")),
        (allow("10.0.0.1", 1), rule(cidr(10, 0, 0, 1, bits=32), 1)),
        (allow("[::1]"), rule(cidr(*[0] * 15, 1, bits=128))),
        (allow("::1"), rule({"Host": "::1"})),
        (allow("10.0.0.0/8", 1), rule({"Host": "10.0.0.0/8"}, 1)),
        (allow(None, protocol="Icmp"), rule("AnyIp", protocol="Icmp")),
    ],
)
def test_rules_of_equal_effect(older: object, later: object) -> None:
    policy = changed("v1", net_allow=[older])

    converted, warnings = convert_policy(policy, "v2")

    assert converted.fields["net_allow"] == [later]
    assert not warnings
    assert convert_policy(converted, "v1") == (policy, ())


NEVER = rule(cidr(10, 0, 0, 0, bits=8))


@pytest.mark.parametrize(
    ("fields", "warned", "expected"),
    [
        ({"on_exit": "Defer"}, ["on_exit"], {"on_exit": "Keep"}),
        ({"on_error": "Defer"}, ["on_error"], {"on_error": "Keep"}),
        ({"net_allow": [NEVER]}, ["net_allow[0]"], {"net_allow": []}),
        (
            {"net_deny": [NEVER], "http_allow": [{"method": "*", "host": "*", "path": "/"}],
             "http_ports": [80]},
            ["net_deny"],
            {"net_allow": [], "http_allow": [], "http_ports": []},
        ),
        (
            {"net_allow": [rule("AnyIp", 443)], "net_deny": [NEVER]},
            ["net_deny"],
            {"net_allow": []},
        ),
        ({"net_allow_bind": "All"}, ["net_allow_bind"], {"net_bind": []}),
        ({"net_deny_bind": [22]}, ["net_deny_bind"], {"net_bind": []}),
        (
            {"net_allow_bind": {"Ports": [1, 2]}, "net_deny_bind": [2]},
            [],
            {"net_bind": [1]},
        ),
        (
            {"fs_mount": [["/a", "/b"], ["/c", "/d"]], "fs_mount_ro": ["/c"]},
            ["fs_mount_ro"],
            {"fs_mount": [["/a", "/b"]]},
        ),
        ({"user": {"uid": 1, "gid": 1}}, [], {"uid": 1}),
        ({"user": {"uid": 1, "gid": 2}}, ["user"], {"uid": 1}),
        ({"protection_policy": [["NetTcp", "Disabled"]]}, ["protection_policy"], {}),
        ({"http_inject_ca": ["/ca"]}, ["http_inject_ca"], {}),
        ({"http_ca_out": "/out"}, ["http_ca_out"], {}),
    ],
)  # fmt: skip
def test_what_v1_cannot_say(
    fields: dict[str, object], warned: list[str], expected: dict[str, object]
) -> None:
    converted, warnings = convert_policy(changed("v3", **fields), "v1")

    assert [warning.partition(":")[0] for warning in warnings] == warned
    assert expected.items() <= converted.fields.items()


def test_v2_takes_no_denied_beside_allowed() -> None:
    policy = changed("v3", net_allow=[rule("AnyIp", 443)], net_deny=[NEVER])

    converted, warnings = convert_policy(policy, "v2")

    assert [warning.partition(":")[0] for warning in warnings] == ["net_deny"]
    assert converted.fields["net_allow"] == converted.fields["net_deny"] == []


def test_v2_says_the_difference_of_bindable_ports() -> None:
    listed = changed("v3", net_allow_bind={"Ports": [1, 2]}, net_deny_bind=[2])
    every = changed("v3", net_allow_bind="All", net_deny_bind=[2])

    converted, _ = convert_policy(listed, "v2")
    assert converted.fields["net_allow_bind"] == {"Ports": [1]}
    assert converted.fields["net_deny_bind"] == []

    converted, _ = convert_policy(every, "v2")
    assert converted.fields["net_allow_bind"] == {"Ports": []}
    assert converted.fields["net_deny_bind"] == [2]


def test_an_unknown_version() -> None:
    with pytest.raises(ValueError, match="'v4'"):
        convert_policy(default_policy("v1"), "v4")


def test_what_cannot_be_encoded_is_not_converted() -> None:
    with pytest.raises(ValueError, match=r"policy\.cwd"):
        convert_policy(changed("v1", cwd=1), "v3")

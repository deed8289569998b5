"""A policy of one version as one of another, never letting out more than before.

Step by step between neighbours. What the other version cannot say is reported, and
decided for the closed side: a rule that would have to be widened is left out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from sandlock_async.image.policy.codec import (
    VERSIONS,
    Policy,
    encode_policy,
    fields_of,
)
from sandlock_async.image.policy.network import (
    hosted,
    http_allows,
    http_rules,
    targeted,
)

UNLIMITED = (1 << 32) - 1
"""``max_processes`` of v1 and v2 for v3's None: no Linux has as many."""

Fields = dict[str, Any]


def convert_policy(policy: Policy, to_version: str) -> tuple[Policy, tuple[str, ...]]:
    """Return *policy* as one of *to_version*, and what it could not keep.

    The warnings start with the name of the field; there are none if the policies
    have the same effect.

    :raises ValueError: if the policy cannot be encoded, or there is no such version
    """
    wanted = fields_of(to_version)
    encode_policy(policy)
    versions = list(VERSIONS)
    here, there = versions.index(policy.version), versions.index(to_version)
    fields: Fields = _copied(policy.fields)
    warnings: list[str] = []
    while here != there:
        beside = here + 1 if there > here else here - 1
        _STEPS[versions[here], versions[beside]](fields, warnings)
        here = beside
    ordered = {field.name: fields[field.name] for field in wanted}
    return Policy(version=to_version, fields=ordered), tuple(warnings)


def _copied(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a copy: that of ``copy`` takes ten times as long."""
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {key: _copied(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in cast("Sequence[Any]", value)]
    return value


def _v1_to_v2(fields: Fields, _: list[str]) -> None:
    fields["net_allow"] = [targeted(allow) for allow in fields["net_allow"]]
    fields["net_allow_bind"] = {"Ports": fields.pop("net_bind")}
    uid = fields.pop("uid")
    # 0.8.2 maps the group of the same number.
    fields["user"] = None if uid is None else {"uid": uid, "gid": uid}
    for field in fields_of("v2"):
        fields.setdefault(field.name, field.default())


def _v2_to_v3(fields: Fields, _: list[str]) -> None:
    if fields["max_processes"] == UNLIMITED:
        fields["max_processes"] = None
    # 0.9.0 adds these itself at the start, and beside net_deny they would change
    # it from a list of exceptions to an allowlist.
    rules = fields["net_allow"]
    places: dict[str, list[int]] = {}
    for index, rule in enumerate(rules):
        places.setdefault(repr(hosted(rule)), []).append(index)
    dropped: set[int] = set()
    for added in http_allows(fields):
        there = places.get(repr(added))
        if there:
            dropped.add(there.pop())
    fields["net_allow"] = [
        rule for index, rule in enumerate(rules) if index not in dropped
    ]


def _v3_to_v2(fields: Fields, warnings: list[str]) -> None:
    if fields["max_processes"] is None:
        fields["max_processes"] = UNLIMITED
    for name in ("on_exit", "on_error"):
        if fields[name] == "Defer":
            fields[name] = "Keep"
            warnings.append(
                f"{name}: v2 has no Defer; Keep leaves the changes on disk, "
                "neither merged nor lost"
            )
    if fields["net_allow"] and fields["net_deny"]:
        # 0.8.6 would let out all but the denied: the allowlist would be void.
        _deny_outbound(fields, warnings, "v2 cannot combine it with net_allow")
    if fields["net_deny_bind"]:
        # 0.8.6 does not combine these either, but the difference can be said.
        if fields["net_allow_bind"] == "All":
            fields["net_allow_bind"] = {"Ports": []}
        elif fields["net_allow_bind"]["Ports"]:
            denied = set(fields["net_deny_bind"])
            allowed = fields["net_allow_bind"]["Ports"]
            kept = [port for port in allowed if port not in denied]
            fields["net_allow_bind"] = {"Ports": kept}
            fields["net_deny_bind"] = []
    there = {repr(hosted(rule)) for rule in fields["net_allow"]}
    fields["net_allow"] = fields["net_allow"] + [
        rule for rule in http_rules(fields) if repr(hosted(rule)) not in there
    ]


def _v2_to_v1(fields: Fields, warnings: list[str]) -> None:
    if fields["net_deny"]:
        _deny_outbound(fields, warnings, "v1 has only allowlists")
    allows: list[Fields] = []
    for index, rule in enumerate(fields["net_allow"]):
        allow = hosted(rule)
        if allow is None:
            warnings.append(
                f"net_allow[{index}]: left out, v1 has no address ranges; "
                "its destinations are denied"
            )
        else:
            allows.append(allow)
    fields["net_allow"] = allows
    fields["net_bind"] = _bindable(fields, warnings)
    fields["fs_mount"] = _writable_mounts(fields, warnings)
    user = fields["user"]
    fields["uid"] = None if user is None else user["uid"]
    if user is not None and user["gid"] != user["uid"]:
        warnings.append(f"user: in v1 the gid is the uid, {user['uid']}")
    handled = {"net_deny", "net_allow_bind", "net_deny_bind", "fs_mount_ro", "user"}
    known = {field.name for field in fields_of("v1")}
    for field in fields_of("v2"):
        if field.name in known:
            continue
        value = fields.pop(field.name)
        if field.name not in handled and value != field.default():
            warnings.append(f"{field.name}: left out, v1 has no such field")


def _deny_outbound(fields: Fields, warnings: list[str], reason: str) -> None:
    # The HTTP rules too: with any of them 0.8.x lets their ports out.
    for name in ("net_allow", "net_deny", "http_allow", "http_deny", "http_ports"):
        fields[name] = []
    warnings.append(f"net_deny: {reason}; nothing is let out, HTTP included")


def _bindable(fields: Fields, warnings: list[str]) -> list[int]:
    allowed, denied = fields["net_allow_bind"], set(fields["net_deny_bind"])
    if allowed == "All" or (denied and not allowed["Ports"]):
        name = "net_allow_bind" if allowed == "All" else "net_deny_bind"
        warnings.append(
            f"{name}: v1 has only a list of allowed ports; none may be bound"
        )
        return []
    return [port for port in allowed["Ports"] if port not in denied]


def _writable_mounts(fields: Fields, warnings: list[str]) -> list[object]:
    read_only = set(fields["fs_mount_ro"])
    if read_only:
        warnings.append(
            "fs_mount_ro: v1 has no read-only mounts; left out of fs_mount as well"
        )
    return [mount for mount in fields["fs_mount"] if mount[0] not in read_only]


_STEPS: dict[tuple[str, str], Callable[[Fields, list[str]], None]] = {
    ("v1", "v2"): _v1_to_v2,
    ("v2", "v3"): _v2_to_v3,
    ("v3", "v2"): _v3_to_v2,
    ("v2", "v1"): _v2_to_v1,
}

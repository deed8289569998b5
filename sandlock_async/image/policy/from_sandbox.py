"""The policy of a ``sandlock.Sandbox`` object, from its attributes.

sandlock is not imported, and none of its releases needs to be installed: what the
object has shows which one it is of.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from sandlock_async.image.bincode import Bool
from sandlock_async.image.policy.codec import Policy, encode_policy, fields_of
from sandlock_async.image.policy.conversion import convert_policy
from sandlock_async.image.policy.network import (
    Rule,
    http_allows,
    http_rules,
    parse_allow,
    parse_rules,
)
from sandlock_async.image.policy.notation import (
    parse_bind,
    parse_http,
    parse_size,
    parse_time,
)
from sandlock_async.image.policy.schema import (
    OPTIONAL_INDICES,
    OPTIONAL_TEXT,
    PROTECTIONS,
    TEXTS,
    Field,
)

_CALLBACKS = ("policy_fn", "init_fn", "work_fn", "notif_policy")
_READ_BESIDE = {"name", "uid", "gid", "allow_degraded", "disable", "image"}


def policy_from_sandbox(
    sandbox: object, version: str | None = None, *, has_lib64: bool = True
) -> tuple[Policy, tuple[str, ...]]:
    """Return the policy that a sandbox would store, and what is missing in it.

    :param sandbox: a ``sandlock.Sandbox``, or anything with its attributes
    :param version: the version wanted; by default that of the sandbox's own release
    :param has_lib64: whether ``/lib64`` exists: sandlock passes over it otherwise
    :raises ValueError: naming the attribute that is not what sandlock takes
    """
    own = _version_of(sandbox)
    fields: dict[str, Any] = {}
    for field in fields_of(own):
        try:
            value = getattr(sandbox, field.name, None)
            fields[field.name] = _stored(own, field, value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{field.name}: {error}") from error
    if not has_lib64:
        readable = fields["fs_readable"]
        fields["fs_readable"] = [path for path in readable if path != "/lib64"]
    _add_http(own, fields)
    if own != "v1":
        fields["protection_policy"] = _protections(sandbox)
        fields["user"] = _user(sandbox)
    # Read-only mounts are mounts, and named once more.
    fields["fs_mount"] += _pairs(getattr(sandbox, "fs_mount_ro", None))
    _apply_image(getattr(sandbox, "image", None), fields)
    policy = Policy(version=own, fields=fields)
    encode_policy(policy)
    if version is None:
        return policy, tuple(_missing(sandbox, own))
    converted, lost = convert_policy(policy, version)
    return converted, (*_missing(sandbox, own), *lost)


def _version_of(sandbox: object) -> str:
    if hasattr(sandbox, "net_bind"):
        return "v1"
    return "v3" if hasattr(sandbox, "fs_mount_ro") else "v2"


def _stored(version: str, field: Field, value: Any) -> Any:  # noqa: ANN401
    """Return the value of one attribute as the field of its name holds it."""
    convert = _CONVERSIONS.get(field.name)
    if field.name in ("net_allow", "net_deny"):
        return _net_rules(version, value)
    if convert is not None and value is not None:
        return convert(value)
    if field.kind == TEXTS:
        return [str(item) for item in value or ()]
    if field.kind == OPTIONAL_TEXT:
        return str(value) if value else None
    if field.kind == Bool():
        return bool(value)
    if value is None:
        return field.default()
    return list(value) if field.kind == OPTIONAL_INDICES else value


def _net_rules(version: str, specs: Iterable[object] | None) -> list[Rule]:
    texts = [str(spec) for spec in specs or ()]
    if version == "v1":
        return [parse_allow(text) for text in texts]
    return [rule for text in texts for rule in parse_rules(text)]


def _action(value: object) -> str:
    return str(getattr(value, "value", value)).capitalize()


def _names(value: Iterable[object]) -> list[str]:
    parts = [part.strip() for item in value for part in str(item).split(",")]
    return [part for part in parts if part]


def _pairs(value: Mapping[object, object] | None) -> list[list[str]]:
    return [[str(key), str(item)] for key, item in (value or {}).items()]


def _allowed_bind(value: Iterable[object]) -> object:
    ports = parse_bind(value)
    return "All" if ports is None else {"Ports": ports}


def _listed_bind(value: Iterable[object]) -> list[int]:
    ports = parse_bind(value)
    if ports is None:
        raise ValueError("* stands for all ports only in net_allow_bind")
    return ports


def _http(value: Iterable[object]) -> list[dict[str, Any]]:
    return [parse_http(str(rule)) for rule in value]


_CONVERSIONS: dict[str, Callable[[Any], object]] = {
    "extra_deny_syscalls": _names,
    "extra_allow_syscalls": _names,
    "net_bind": _listed_bind,
    "net_allow_bind": _allowed_bind,
    "net_deny_bind": _listed_bind,
    "http_allow": _http,
    "http_deny": _http,
    "http_ports": lambda ports: [int(port) for port in ports],
    "max_memory": parse_size,
    "max_disk": parse_size,
    "time_start": parse_time,
    "on_exit": _action,
    "on_error": _action,
    "fs_mount": _pairs,
    "env": _pairs,
}


def _add_http(version: str, fields: dict[str, Any]) -> None:
    rules = fields["http_allow"] or fields["http_deny"]
    if rules and not fields["http_ports"]:
        authority = fields["http_ca"] or fields.get("http_inject_ca")
        fields["http_ports"] = [80, 443] if authority else [80]
    if version == "v3":
        return
    if not rules and fields["http_ports"]:
        # Ports without rules: any host on them.
        either = {**fields, "http_allow": [{"host": "*"}]}
    else:
        either = fields
    added = http_allows(either) if version == "v1" else http_rules(either)
    fields["net_allow"] += added


def _protections(sandbox: object) -> list[list[str]]:
    states: dict[str, str] = {}
    for name, state in (("allow_degraded", "Degradable"), ("disable", "Disabled")):
        for protection in getattr(sandbox, name, None) or ():
            if protection not in range(len(PROTECTIONS)):
                raise ValueError(f"{name}: {protection!r} is not a protection")
            states[PROTECTIONS[protection]] = state
    return [list(pair) for pair in states.items()]


def _user(sandbox: object) -> dict[str, object] | None:
    uid = getattr(sandbox, "uid", None)
    # Releases without a gid map the group of the same number.
    gid = getattr(sandbox, "gid", uid)
    if (uid is None) != (gid is None):
        raise ValueError("uid and gid belong together")
    return None if uid is None else {"uid": uid, "gid": gid}


def _apply_image(image: Any, fields: dict[str, Any]) -> None:  # noqa: ANN401
    """Put in what 0.9.0 makes of ``image=``: the image's tree, never written to."""
    if image is None:
        return
    fields["chroot"] = fields["workdir"] = str(image.rootfs)
    fields["fs_readable"].append("/")
    fields["on_exit"] = "Abort"
    fields["cwd"] = fields["cwd"] or image.config.working_dir or None
    given = {key for key, _ in fields["env"]}
    for entry in image.config.env:
        key, _, value = str(entry).partition("=")
        if key not in given:
            fields["env"].append([key, value])


def _missing(sandbox: Any, version: str) -> list[str]:  # noqa: ANN401
    missing = [
        f"{name}: a callback is in no policy"
        for name in _CALLBACKS
        if getattr(sandbox, name, None) is not None
    ]
    if getattr(sandbox, "workdir", None) or getattr(sandbox, "image", None):
        missing.append(
            "fs_readable: the directory of changes that sandlock makes readable "
            "is not known"
        )
    known = {field.name for field in fields_of(version)} | _READ_BESIDE
    if dataclasses.is_dataclass(sandbox):
        for field in dataclasses.fields(sandbox):
            value = getattr(sandbox, field.name)
            if field.name not in known.union(_CALLBACKS) and value != _default(field):
                missing.append(f"{field.name}: not known in {version}")
    return missing


def _default(field: "dataclasses.Field[Any]") -> object:
    if field.default_factory is not dataclasses.MISSING:
        return cast("Callable[[], object]", field.default_factory)()
    return field.default

"""A policy on its way into an image: given, made, or brought from another version."""

from dataclasses import dataclass
from functools import lru_cache

from sandlock_async.image.policy.codec import (
    Policy,
    decode_policy,
    default_policy,
    encode_policy,
)
from sandlock_async.image.policy.conversion import convert_policy
from sandlock_async.image.policy.from_sandbox import policy_from_sandbox
from sandlock_async.image.strict_json import Malformed

_SMALL_BYTES = 16 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """The bytes of a ``policy.dat``.

    :ivar version: whose bytes they are; None if nobody has said
    :ivar warnings: what they do not say, that they should
    """

    data: bytes
    version: str | None
    warnings: tuple[str, ...] = ()


def given_policy(
    policy: bytes | Policy | None, sandbox: object, *, has_lib64: bool, default: str
) -> Carried:
    """Return what a capture puts into its image.

    :param policy: bytes, passed through as they are; a policy; or None
    :param sandbox: a ``sandlock.Sandbox``, whose own policy is taken for None
    :param has_lib64: whether there is a ``/lib64``, which sandlock looks for
    :param default: the version of the policy to take if there is none at all
    :raises ValueError: if a policy given does not fit its version
    """
    if isinstance(policy, Policy):
        return Carried(data=encode_policy(policy), version=policy.version)
    if policy is not None:
        return Carried(data=bytes(policy), version=None)
    if sandbox is not None:
        try:
            own, warnings = policy_from_sandbox(sandbox, has_lib64=has_lib64)
            return Carried(
                data=encode_policy(own), version=own.version, warnings=warnings
            )
        except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
            warning = (
                f"the sandbox's own policy is not in the image, but an empty one: "
                f"{error}; give policy= to have another",
            )
            return Carried(data=_empty(default), version=default, warnings=warning)
    return Carried(data=_empty(default), version=default)


@lru_cache
def _empty(version: str) -> bytes:
    return encode_policy(default_policy(version))


def carry_policy(data: bytes, version: str | None, to: str) -> Carried:
    """Return the bytes of a policy in version *to*.

    Those of an unknown version, and those that are not of the version they should
    be, are passed through as they are.
    """
    if version is None or version == to:
        return Carried(data=data, version=version)
    if len(data) <= _SMALL_BYTES:
        return _converted_once(data, version, to)
    return _converted(data, version, to)


def _converted(data: bytes, version: str, to: str) -> Carried:
    try:
        policy = decode_policy(version, data)
        converted, warnings = convert_policy(policy, to)
        return Carried(data=encode_policy(converted), version=to, warnings=warnings)
    except Malformed as error:
        warning = f"policy.dat is passed through, not understood as {version}: {error}"
        return Carried(data=data, version=None, warnings=(warning,))


_converted_once = lru_cache(maxsize=64)(_converted)
"""Sandboxes by the dozen have the same policy."""

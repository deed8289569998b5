"""``policy.dat``: what a sandbox may do, in the three versions of its bytes.

bincode of sandlock's ``Sandbox`` struct; which version it is, the image says and
the bytes do not.
"""

from sandlock_async.image.policy.codec import (
    VERSIONS,
    Policy,
    decode_policy,
    default_policy,
    encode_policy,
)
from sandlock_async.image.policy.conversion import convert_policy
from sandlock_async.image.policy.from_sandbox import policy_from_sandbox

__all__ = [
    "DEFAULT_V1",
    "VERSIONS",
    "Policy",
    "convert_policy",
    "decode_policy",
    "default_policy",
    "encode_policy",
    "policy_from_sandbox",
]

DEFAULT_V1 = encode_policy(default_policy("v1"))
"""What sandlock 0.8.2 stores for ``Sandbox()``."""

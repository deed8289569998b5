"""v3: the ``Sandbox`` of sandlock 0.9.0, which is v2's but for three fields."""

from sandlock_async.image.policy import v2
from sandlock_async.image.policy.schema import (
    BRANCH_ACTION_V3,
    OPTIONAL_U32,
    Field,
)

_CHANGED = {
    field.name: field
    for field in (
        Field("max_processes", OPTIONAL_U32),
        Field("on_exit", BRANCH_ACTION_V3, "Commit"),
        Field("on_error", BRANCH_ACTION_V3, "Abort"),
    )
}

FIELDS = tuple(_CHANGED.get(field.name, field) for field in v2.FIELDS)
"""In the order of the bytes."""

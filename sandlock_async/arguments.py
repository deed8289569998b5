"""A caller's own mistakes, found before anything is touched."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sandlock_async.image import find_format, layout
from sandlock_async.image.age import Recipients
from sandlock_async.image.files import Format
from sandlock_async.image.policy import Policy, encode_policy
from sandlock_async.strategy import Strategy

_MAX_ID = 200
_BYTES = (bytes, bytearray, memoryview)
_MAX_BYTES = {
    "policy": layout.max_bytes(layout.POLICY),
    "app_state": layout.MAX_METADATA_BYTES,
}
_CONTENT = {"policy": (*_BYTES, Policy), "app_state": _BYTES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How captures to the disk are to be made; checked as they are given.

    :raises TypeError: naming the one that is of another type
    :raises ValueError: naming the one that cannot be, or not in this release
    """

    name: str | None = None
    policy: bytes | Policy | None
    app_state: bytes | None = None
    format: str
    strategy: str
    tree: bool = False
    exclude_dontdump: bool
    operation_id: str | None = None
    recipients: Recipients | None = None
    timeout: float
    memory_limit: int
    replace: bool
    durable: bool

    def __post_init__(self) -> None:
        find_format(self.format)
        check_arguments(
            name=self.name,
            policy=self.policy,
            app_state=self.app_state,
            timeout=self.timeout,
        )
        _check_available(self)
        if isinstance(self.policy, Policy):
            encode_policy(self.policy)

    @property
    def layout(self) -> Format:
        """The layout that *format* names."""
        return find_format(self.format)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A checkpoint that is wanted of a process."""

    target: object
    pid: int
    destination: Path
    options: Options


def check_arguments(
    *, name: object, policy: object, app_state: object, timeout: object
) -> None:
    """Return if these can be what a capture is given.

    :raises TypeError: naming the one that is of another type
    :raises ValueError: if the timeout is no time
    """
    check_content(name=name, policy=policy, app_state=app_state)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    if not timeout > 0:  # nor is nan
        raise ValueError(f"timeout must be more than 0 seconds, but is {timeout!r}")


def check_content(*, name: object, policy: object, app_state: object) -> None:
    """Return if an image can hold these; None stands for a default, or nothing.

    :raises TypeError: if the name is no string, or another one no bytes
    :raises ValueError: if there are more bytes than an image is loaded with
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a string, not {name!r}")
    for what, value in (("policy", policy), ("app_state", app_state)):
        if value is not None and not isinstance(value, _CONTENT[what]):
            raise TypeError(f"{what} must be bytes, not {value!r}")
        if isinstance(value, _BYTES):
            size = memoryview(cast("bytes", value)).nbytes
            if size > _MAX_BYTES[what]:
                raise ValueError(f"{what} has {size} bytes, which are too many")


def _check_available(options: Options) -> None:
    _check_memory_limit(options.memory_limit)
    if options.strategy not in tuple(Strategy):
        known = ", ".join(map(repr, map(str, Strategy)))
        raise ValueError(f"unknown strategy {options.strategy!r}: one of {known}")
    check_operation_id(options.operation_id)
    if options.operation_id is not None and options.recipients is not None:
        raise ValueError(
            "operation_id cannot be given with recipients: whether the capture has been "
            "made is told by its report, which would have to stay in the clear"
        )


def _check_memory_limit(limit: object) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"memory_limit must be a number of bytes, not {limit!r}")
    if limit < 0:
        raise ValueError(f"memory_limit must not be negative, but is {limit}")


def check_operation_id(id: object) -> None:
    """Return if a capture can have that name; None stands for none.

    :raises TypeError: if it is no string
    :raises ValueError: if it is none that is kept in an image
    """
    if id is None:
        return
    if not isinstance(id, str):
        raise TypeError(f"operation_id must be a string, not {id!r}")
    if not 0 < len(id) <= _MAX_ID or not id.isprintable():
        raise ValueError(
            f"operation_id must be 1 to {_MAX_ID} printable characters, not {id!r}"
        )

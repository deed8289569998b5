"""A caller's own mistakes, found before anything is touched."""

from collections.abc import Sequence

from sandlock_async.image.policy import Policy
from sandlock_async.strategy import Strategy

_BYTES = (bytes, bytearray, memoryview)
_CONTENT = {"policy": (*_BYTES, Policy), "app_state": _BYTES}


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


def check_options(
    *,
    strategy: str,
    memory_limit: int,
    operation_id: str | None,
    recipients: Sequence[object],
) -> None:
    """Return if this release can do what is asked for.

    :raises ValueError: naming the option that it cannot
    """
    if memory_limit < 0:
        raise ValueError(f"memory_limit must not be negative, but is {memory_limit}")
    if strategy not in tuple(Strategy):
        known = ", ".join(map(repr, map(str, Strategy)))
        raise ValueError(f"unknown strategy {strategy!r}: one of {known}")
    wanted = {
        "operation_id=": operation_id is not None,
        "recipients=": bool(recipients),
    }
    for option, given in wanted.items():
        if given:
            raise ValueError(f"{option} is not available in this release")


def check_content(*, name: object, policy: object, app_state: object) -> None:
    """Return if an image can hold these; None stands for a default, or nothing.

    :raises TypeError: if the name is no string, or another one no bytes
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a string, not {name!r}")
    for what, value in (("policy", policy), ("app_state", app_state)):
        if value is not None and not isinstance(value, _CONTENT[what]):
            raise TypeError(f"{what} must be bytes, not {value!r}")

"""``/proc/PID/limits``, ``proc_pid_limits(5)``."""

from functools import lru_cache

from sandlock_async.model import Limit

# Limit                     Soft Limit           Hard Limit           Units
_NAME, _SOFT, _HARD = slice(0, 26), slice(26, 47), slice(47, 68)


@lru_cache(maxsize=64)  # most processes have the same
def parse_limits(content: bytes) -> tuple[Limit, ...]:
    """Return every limit, in the order of the file.

    :raises ValueError: if a line has another form
    """
    return tuple(
        Limit(
            name=line[_NAME].strip(),
            soft=_parse(line[_SOFT]),
            hard=_parse(line[_HARD]),
        )
        for line in content.decode().splitlines()[1:]
    )


def _parse(text: str) -> int | None:
    return None if text.strip() == "unlimited" else int(text)

"""``/proc/PID/fdinfo/N``, ``proc_pid_fdinfo(5)``."""


def parse_fdinfo(content: bytes) -> tuple[int, int]:
    """Return ``(flags, offset)``: open flags (octal in the file), position in bytes.

    A position may be any ``loff_t``, as in ``/proc/PID/mem``: negative ones, which the
    kernel prints with their sign, are returned as the ``u64`` they are there.

    :raises ValueError: if either is missing
    """
    flags = offset = None
    for line in content.split(b"\n"):
        # Separators differ: `pos:\t5`, `eventfd-count:      5`.
        name, _, value = line.partition(b":")
        if name == b"flags":
            flags = int(value, 8)
        elif name == b"pos":
            offset = int(value) & (1 << 64) - 1
    if flags is None or offset is None:
        raise ValueError(f"no flags or pos in fdinfo: {content!r}")

    return flags, offset

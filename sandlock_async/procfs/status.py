"""``/proc/PID/status``, ``proc_pid_status(5)``."""


def parse_status(content: bytes) -> dict[str, str]:
    """Return every ``Name: value`` line; values as the kernel prints them."""
    fields: dict[str, str] = {}
    for line in content.decode(errors="replace").split("\n"):
        name, separator, value = line.partition(":")
        if separator:
            fields[name] = value.strip()
    return fields

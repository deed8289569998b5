"""What can be pinned as a target, and what is said of the rest."""

import errno
import os
import subprocess

import pytest

import sandlock_async as sa
from sandlock_async.target import open_target, resolve_pid


@pytest.mark.parametrize("pid", [0, -1, 1 << 31, 1 << 40, 1 << 70])
def test_no_number_of_a_process(pid: int) -> None:
    with pytest.raises(ValueError, match=f"{pid} is not a pid"):
        resolve_pid(pid)


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.EINVAL, "the number of a thread"),
        (errno.ENOENT, "the number of a thread"),
        (errno.EMFILE, "Too many open files"),
        (errno.ENFILE, "Too many open files in system"),
        (errno.ENOSYS, "Function not implemented"),
    ],
    ids=errno.errorcode.get,
)
def test_no_pidfd(
    number: int,
    what: str,
    sleeper: "subprocess.Popen[bytes]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(_: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refused)

    with pytest.raises(sa.UncapturableError, match=what) as caught:
        open_target(sleeper)

    assert caught.value.help

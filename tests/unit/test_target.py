"""What can be pinned as a target, and what is said of the rest."""

import errno
import os
import subprocess

import pytest

import sandlock_async as sa
from sandlock_async.kernel import files
from sandlock_async.target import open_target, read_stat, resolve_pid


@pytest.mark.parametrize("pid", [0, -1, 1 << 31, 1 << 40, 1 << 70])
def test_no_number_of_a_process(pid: int) -> None:
    with pytest.raises(ValueError, match=f"{pid} is not a pid"):
        resolve_pid(pid)


def test_a_process_that_is_hidden(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(path: str) -> bytes:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    monkeypatch.setattr(files, "read_file", hidden)
    for is_hidden, error in (
        (True, sa.NotPermittedError),
        (False, sa.ProcessGoneError),
    ):
        monkeypatch.setattr(os.path, "exists", lambda _, it=is_hidden: not it)
        with pytest.raises(error) as caught:
            read_stat(sleeper.pid, "prepare")
        assert caught.value.help
        assert ("hidepid" in str(caught.value)) == is_hidden


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

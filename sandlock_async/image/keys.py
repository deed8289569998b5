"""The keys of encrypted images, as they are given: strings, files, or pyrage's own.

Needs pyrage, the extra ``crypt``. No message has a secret key in it: messages end up in
logs.
"""

import importlib
import os
import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from sandlock_async.errors import UnusableKeyError

_MAX_FILE_BYTES = 1 << 20
_NATIVE = "AGE-SECRET-KEY-"
_SECRET = ("AGE-SECRET-KEY", "PRIVATE KEY")
_KINDS = ("x25519", "ssh", "tag", "tagpq", "plugin")
_BEGIN, _END = "-----BEGIN ", "-----END "
_AGE_FILE = ("age-encryption.org/", "-----BEGIN AGE ENCRYPTED FILE")

_PUBLIC_HELP = "give its public one: age-keygen -y prints it, SSH has it in FILE.pub"
_SECRET_HELP = "give the file that age-keygen or ssh-keygen made"
_PASSPHRASE_HELP = "remove the passphrase from a copy of it (age -d, ssh-keygen -p)"


def find_pyrage() -> Any:  # noqa: ANN401 - it has no types
    """Return the module pyrage.

    :raises UnusableKeyError: if it is not installed
    """
    try:
        return importlib.import_module("pyrage")
    except ImportError as error:
        raise UnusableKeyError(
            "encryption needs pyrage, which is not installed",
            help="pip install 'sandlock-async[crypt]'",
        ) from error


def recipients_of(given: Iterable[object]) -> list[object]:
    """Return recipients as pyrage has them.

    :param given: each as age prints it (``age1…``), an SSH public key, several of both
        on lines of their own, or one of pyrage
    :raises UnusableKeyError: if one is none, or pyrage is not installed
    :raises TypeError: if one is something else
    """
    pyrage = find_pyrage()
    if isinstance(given, str | bytes | os.PathLike):
        raise TypeError(f"recipients are several keys, not one {type(given).__name__}")
    found = [one for this in given for one in _recipients(pyrage, this)]
    if not found:
        raise UnusableKeyError(
            "there are no recipients: nobody could open what is encrypted for them",
            help="leave them out (None) if nothing is to be encrypted",
        )
    return found


def identities_of(given: Iterable[object]) -> list[object]:
    """Return identities as pyrage has them. Blocks.

    :param given: each the path of a key file, its content, or one of pyrage
    :raises UnusableKeyError: if one is none, its file cannot be read, or pyrage is not
        installed
    :raises TypeError: if one is something else
    """
    pyrage = find_pyrage()
    if isinstance(given, str | bytes | os.PathLike):
        raise TypeError(f"identities are several keys, not one {type(given).__name__}")
    return [one for this in given for one in _identities(pyrage, this)]


def _recipients(pyrage: Any, given: object) -> Iterable[object]:  # noqa: ANN401
    if isinstance(given, _classes(pyrage, "Recipient", "RecipientPluginV1")):
        return [given]
    if not isinstance(given, str):
        what = type(given).__name__
        raise TypeError(f"a recipient is a string like age1…, not one of type {what}")
    if any(mark in given.upper() for mark in _SECRET):
        raise UnusableKeyError(
            "a recipient is a public key: that is a secret key", help=_PUBLIC_HELP
        )
    found = [_recipient(pyrage, key) for key in _keys_in(given)]
    if not found:
        raise UnusableKeyError("a recipient is empty", help="leave it out")
    return found


def _recipient(pyrage: Any, key: str) -> object:  # noqa: ANN401
    kind = pyrage.ssh if key.startswith("ssh-") else pyrage.x25519
    try:
        return kind.Recipient.from_str(key)
    except (pyrage.RecipientError, UnicodeError) as error:
        raise UnusableKeyError(
            f"{reprlib.repr(key)} is no recipient: {error}",
            help="give what age-keygen prints (age1…), or an SSH public key of type "
            "ed25519 or rsa",
        ) from error


def _identities(pyrage: Any, given: object) -> Iterable[object]:  # noqa: ANN401
    if isinstance(given, _classes(pyrage, "Identity", "IdentityPluginV1")):
        return [given]
    path = None
    if isinstance(given, bytes):
        content = given
    elif isinstance(given, str):
        content = given.encode(errors="replace")
    elif isinstance(given, os.PathLike):
        path = Path(cast("os.PathLike[str]", given))
        content = _content_of(path)
    else:
        raise TypeError(
            "an identity is a path, or the content of a key file, not one of type "
            f"{type(given).__name__}"
        )
    try:
        text = content.decode()
    except UnicodeDecodeError:
        # Without its cause: that has the content.
        raise _unusable(path, "it is no text") from None
    if text.startswith(_AGE_FILE):
        raise _unusable(path, "it has a passphrase", _PASSPHRASE_HELP)
    found = [_identity(pyrage, key, path) for key in _keys_in(text)]
    if not found:
        raise _unusable(path, "there is no key in it")
    return found


def _identity(pyrage: Any, key: str, path: Path | None) -> object:  # noqa: ANN401
    try:
        if key.upper().startswith(_NATIVE):
            return pyrage.x25519.Identity.from_str(key)
        if key.startswith(_BEGIN):
            return pyrage.ssh.Identity.from_buffer(key.encode())
    except pyrage.IdentityError as error:
        reason = str(error)
        if "decrypted" in reason or "Encrypted" in reason:
            raise _unusable(path, "it has a passphrase", _PASSPHRASE_HELP) from error
        raise _unusable(path, reason) from error
    if key.startswith(("age1", "ssh-")):
        raise _unusable(path, "that is a public key")
    raise _unusable(
        path,
        "a line of it is neither a key nor a comment",
        _SECRET_HELP if path else "a path is given as a pathlib.Path",
    )


def _unusable(
    path: Path | None, reason: str, help: str = _SECRET_HELP
) -> UnusableKeyError:
    what = "an identity" if path is None else f"the identity {path}"
    return UnusableKeyError(f"{what} cannot be used: {reason}", path=path, help=help)


def _content_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise _unusable(path, reason, "look at its path and its mode") from error
    if len(content) > _MAX_FILE_BYTES:
        raise _unusable(path, "it is too long")
    return content


def _keys_in(text: str) -> Iterator[str]:
    """Yield every line, or block of PEM, that is neither empty nor a comment."""
    block: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if block or line.startswith(_BEGIN):
            block.append(line)
            if line.startswith(_END):
                yield "\n".join([*block, ""])
                block = []
        elif line and not line.startswith("#"):
            yield line
    if block:
        yield "\n".join(block)


def _classes(pyrage: Any, *names: str) -> tuple[type, ...]:  # noqa: ANN401
    kinds = [getattr(pyrage, kind, None) for kind in _KINDS]
    found = [getattr(kind, name, None) for kind in kinds for name in names]
    return tuple(this for this in found if this is not None)

"""What a command line asks for, parsed and checked, not yet begun."""

import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from sandlock_async.arguments import check_operation_id
from sandlock_async.cli.output import Answer
from sandlock_async.target import MAX_PID


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A command's work, for an event loop to run.

    :ivar as_json: whether its answer is wanted as JSON
    """

    work: Callable[[], Coroutine[Any, Any, Answer]]
    as_json: bool


_Command = TypeVar("_Command", bound=Callable[..., Any])


def json_option(command: _Command) -> _Command:
    """Give a command the option ``--json``."""
    text = "Print one JSON object on stdout, and nothing else there."
    return click.option("--json", "as_json", is_flag=True, help=text)(command)


def identity_option(command: _Command) -> _Command:
    """Give a command the option ``--identity``."""
    return click.option(
        "--identity",
        "identities",
        metavar="FILE",
        multiple=True,
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="A key file of age or SSH that opens an encrypted checkpoint.",
    )(command)


def recipient_option(command: _Command) -> _Command:
    """Give a command the option ``--recipient``."""
    return click.option(
        "--recipient",
        "recipients",
        metavar="KEY",
        multiple=True,
        help="Encrypt every file for this public key: age1…, or one of SSH.",
    )(command)


def examples(*commands: str) -> str:
    """Return command lines as the end of a help text."""
    return "\n\n".join(("Examples:", *commands))


def checkpoint_path(value: str) -> Path:
    """Return a path that can name a checkpoint directory; it need not be there.

    :raises click.BadParameter: if it cannot
    """
    path = Path(value)
    if path.name in ("", ".."):
        path = path.resolve()
    if not value or not path.name:
        raise click.BadParameter(f"{value!r} does not name a directory.")
    return path


def pid_argument(*, required: bool) -> Callable[[_Command], _Command]:
    """Give a command the argument PID: a process that is not this one."""
    return click.argument(
        "pid",
        type=click.IntRange(1, MAX_PID),
        required=required,
        callback=_other_than_us,
    )


def _other_than_us(_: click.Context, __: click.Parameter, pid: Any) -> Any:  # noqa: ANN401
    if pid == os.getpid():
        raise click.BadParameter("a process cannot capture itself.")
    return pid


def checked_operation_id(value: str) -> str:
    """Return a name that a capture can have.

    :raises click.BadParameter: if it is none
    """
    try:
        check_operation_id(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None
    return value


def file_content(value: str) -> bytes:
    """Return what is in a file.

    :raises OSError: if it cannot be read
    """
    return Path(value).read_bytes()

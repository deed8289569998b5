"""What is printed: one JSON object on stdout, or text for people on stderr.

Text from a process or an image is shown with its control characters escaped: it
may come from somebody who means ill to the terminal.
"""

import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

import orjson
import rich_click as click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sandlock_async.model.picture import unicode

FOUND_SOMETHING = 3
"""Exit code of a command that has done its work, and found something wrong."""

_MAX = (1 << 64) - 1

_WIDE = 1000
"""Columns where there is no terminal: nothing is wrapped or cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command has to say.

    :ivar content: the JSON object
    :ivar text: makes the same for people
    """

    content: Mapping[str, object]
    text: Callable[[], RenderableType]
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a command did not do its work.

    :ivar type: the class of the error
    :ivar help: what helps; empty if nothing does
    """

    type: str
    message: str
    help: str = ""


def show(answer: Answer, *, as_json: bool) -> int:
    """Print the answer; return its exit code.

    :raises OSError: if it cannot be written
    """
    if as_json:
        _print_json(answer.content)
    else:
        people().print(answer.text())
    return answer.exit_code


def fail(failure: Failure, exit_code: int, *, as_json: bool) -> int:
    """Print the failure, as far as that is possible; return the exit code."""
    try:
        if as_json:
            _print_json({"error": asdict(failure)})
            return exit_code
    except OSError:
        pass  # nobody reads stdout: say it on stderr
    try:
        console = people()
        console.print(
            Text.assemble(("error: ", "bold red"), text_of(failure.message)),
            soft_wrap=True,
        )
        if failure.help:
            console.print(
                Text.assemble(("help: ", "bold"), text_of(failure.help)), soft_wrap=True
            )
    except OSError:
        pass  # nor that
    return exit_code


def _print_json(content: Mapping[str, object]) -> None:
    data = orjson.dumps(_encodable(content), option=orjson.OPT_APPEND_NEWLINE)
    if sys.stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "stdout")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered must not fail again when the interpreter ends.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        raise OSError(error.errno, error.strerror, "stdout") from error


def _encodable(value: object) -> object:
    """Return *value* without what JSON does not know.

    That is paths, stray bytes, and numbers that no u64 holds: sparse files that claim
    to be of 2^63 bytes each add up to one.
    """
    if isinstance(value, Path | str):
        return unicode(str(value))
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {key: _encodable(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in cast("Sequence[object]", value)]
    return float(value) if isinstance(value, int) and value > _MAX else value


# -- text for people -----------------------------------------------------------


def people() -> Console:
    """Return the console for text: stderr, plain unless it is a terminal."""
    terminal = is_terminal()
    return Console(
        stderr=True,
        color_system="auto" if terminal else None,
        force_terminal=terminal,
        width=None if terminal else _WIDE,
        markup=False,
        emoji=False,
        highlight=False,
    )


def is_terminal() -> bool:
    """Whether stderr is a terminal that may show colour and bars."""
    return (
        sys.stderr is not None
        and sys.stderr.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )


def help_style() -> click.RichHelpConfiguration:
    """Return how help is shown: in colour on a terminal only."""
    plain = (
        sys.stdout is None
        or not sys.stdout.isatty()
        or bool(os.environ.get("NO_COLOR"))
    )
    return click.RichHelpConfiguration(
        color_system=None if plain else "auto",
        force_terminal=False if plain else None,
        max_width=100,
    )


def text_of(value: object) -> str:
    """Return *value* as one line that no terminal takes for commands."""
    return "".join(
        char if char.isprintable() else ascii(char)[1:-1] for char in str(value)
    )


def lines(*lines: str | RenderableType) -> Group:
    """Return lines of text, or tables, below one another."""
    return Group(
        *(Text(line) if isinstance(line, str) else line for line in lines),
    )


def heading(text: str) -> Text:
    """Return the line above a table."""
    return Text(f"\n{text}", style="bold")


def fields(rows: Sequence[tuple[str, object]]) -> Table:
    """Return names and values, side by side."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(text_of(value)))
    return table


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table; a column whose name begins with ``>`` is set to the right."""
    built = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        right = column.startswith(">")
        justify: Literal["left", "right"] = "right" if right else "left"
        built.add_column(column.lstrip(">"), justify=justify, overflow="fold")
    for row in rows:
        built.add_row(*(Text("" if cell is None else text_of(cell)) for cell in row))
    return built


def size(count: int) -> str:
    """Return a number of bytes for people."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def milliseconds(value: float) -> str:
    """Return a time for people."""
    return f"{value:.1f} ms" if value < 1000 else f"{value / 1000:.2f} s"

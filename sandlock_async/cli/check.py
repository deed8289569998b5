"""``check``: whether a capture can be made, and how it would be."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import rich_click as click
from rich.console import Group

from sandlock_async.budget import DEFAULT_LIMIT
from sandlock_async.check import check as check_ahead
from sandlock_async.cli import output
from sandlock_async.cli.job import (
    Job,
    checkpoint_path,
    examples,
    json_option,
    pid_argument,
)
from sandlock_async.cli.output import FOUND_SOMETHING, Answer
from sandlock_async.preflight import Preflight
from sandlock_async.strategy import Strategy


@click.command(
    "check",
    epilog=examples(
        "sandlock-async check",
        "sandlock-async check 4242 --directory ckpt/web",
        "sandlock-async check 4242 --json | jq '.checks[] | select(.ok | not)'",
    ),
)
@pid_argument(required=False)
@click.option(
    "--directory",
    metavar="DIR",
    type=checkpoint_path,
    help="Where the checkpoint is to be: is there room, and may it be put there?",
)
@click.option(
    "--strategy",
    type=click.Choice([str(strategy) for strategy in Strategy]),
    default="auto",
    show_default=True,
    help="How the memory is to be read.",
)
@click.option(
    "--memory-limit",
    metavar="BYTES",
    type=click.IntRange(min=0),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="Memory for the copy.",
)
@click.option("--tree", is_flag=True, help="Its descendants too.")
@click.option(
    "--exclude-dontdump",
    is_flag=True,
    help="Leave out what the program wants in no core dump (MADV_DONTDUMP).",
)
@click.option("--replace", is_flag=True, help="A checkpoint may be there already.")
@json_option
def check(
    pid: int | None,
    directory: Path | None,
    *,
    strategy: str,
    memory_limit: int,
    tree: bool,
    exclude_dontdump: bool,
    replace: bool,
    as_json: bool,
) -> Job:
    """Tell whether process PID can be captured, and how that would be.

    Without PID, what this kernel and this user allow. Nothing is done to the process,
    and nothing is written; what the kernel can do is tried on a child of our own. The
    options are those of capture. Exits with 3 where something is in the way, and says
    what helps.
    """

    async def run() -> Answer:
        found = await check_ahead(
            pid,
            directory,
            strategy=strategy,
            tree=tree,
            exclude_dontdump=exclude_dontdump,
            memory_limit=memory_limit,
            replace=replace,
        )
        return Answer(
            content={"ok": found.ok, "checks": [asdict(this) for this in found.checks]},
            text=partial(_text, found),
            exit_code=0 if found.ok else FOUND_SOMETHING,
        )

    return Job(work=run, as_json=as_json)


def _text(found: Preflight) -> Group:
    helped = [this for this in found.checks if this.help]
    return output.lines(
        "nothing is in the way" if found.ok else "something is in the way",
        output.table(
            ["", "check", "found"],
            [
                ("ok" if this.ok else "NO", this.name, this.reason)
                for this in found.checks
            ],
        ),
        *([output.heading("What helps")] if helped else []),
        *(
            [output.fields([(this.name, this.help) for this in helped])]
            if helped
            else []
        ),
    )

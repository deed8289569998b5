"""``verify``: whether an image is whole, and still what has been written."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import rich_click as click
from rich.console import Group

from sandlock_async.cli import output
from sandlock_async.cli.job import (
    Job,
    checkpoint_path,
    examples,
    identity_option,
    json_option,
)
from sandlock_async.cli.output import FOUND_SOMETHING, Answer
from sandlock_async.verify import Verification
from sandlock_async.verify import verify as verify_image


@click.command(
    "verify",
    epilog=examples(
        "sandlock-async verify ckpt/web",
        "sandlock-async verify ckpt/web --json | jq -r '.findings[].file'",
    ),
)
@click.argument("directory", metavar="DIR", type=checkpoint_path)
@identity_option
@json_option
def verify(directory: Path, *, identities: tuple[Path, ...], as_json: bool) -> Job:
    """Check the checkpoint in DIR: its structure, and every file's checksum.

    Exits with 3 where something is wrong, and names each file that is damaged, missing
    or not of this checkpoint. An image that sandlock has written has no checksums: only
    its structure can be checked.
    """

    async def run() -> Answer:
        return answer(await verify_image(directory, identities=identities))

    return Job(work=run, as_json=as_json)


def answer(found: Verification) -> Answer:
    """Return what is said of an image that has been checked."""
    return Answer(
        content={
            "path": found.path,
            "ok": found.ok,
            "files": found.files,
            "bytes": found.bytes,
            "findings": [asdict(finding) for finding in found.findings],
        },
        text=partial(_text, found),
        exit_code=0 if found.ok else FOUND_SOMETHING,
    )


def _text(found: Verification) -> Group:
    seen = f"{found.files} files, {output.size(found.bytes)}"
    if found.ok and not found.has_checksums:
        seen += " (its structure: it has no checksums)"
    if found.ok:
        return output.lines(f"{output.text_of(found.path)} is whole: {seen}")
    return output.lines(
        f"{output.text_of(found.path)} is damaged: {seen}",
        output.table(
            ["file", "problem"],
            [(finding.file, finding.problem) for finding in found.findings],
        ),
    )

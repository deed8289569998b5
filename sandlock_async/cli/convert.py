"""``convert``: a checkpoint in another layout."""

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
    recipient_option,
)
from sandlock_async.cli.output import Answer
from sandlock_async.convert import ConversionReport
from sandlock_async.convert import convert as convert_image
from sandlock_async.image import FORMATS


@click.command(
    "convert",
    epilog=examples(
        "sandlock-async convert ckpt/web ckpt/web3 --format v3",
        "sandlock-async convert old new --format v1 --replace --json",
    ),
)
@click.argument("source", metavar="SRC", type=checkpoint_path)
@click.argument("destination", metavar="DST", type=checkpoint_path)
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(FORMATS)),
    required=True,
    help="The layout: v1 is sandlock 0.8.2's, v2 0.8.6's, v3 0.9.0's.",
)
@click.option("--replace", is_flag=True, help="Replace a checkpoint that is there.")
@click.option(
    "--no-durable", is_flag=True, help="Do not wait for the disk (no fsync): faster."
)
@identity_option
@recipient_option
@json_option
def convert(
    source: Path,
    destination: Path,
    *,
    format_: str,
    replace: bool,
    no_durable: bool,
    identities: tuple[Path, ...],
    recipients: tuple[str, ...],
    as_json: bool,
) -> Job:
    """Write the checkpoint SRC to DST in another layout.

    Memory files are shared with SRC where the file system can. In its own layout, the
    files of the base layout stay byte for byte.
    """
    work = partial(
        convert_image,
        source,
        destination,
        format=format_,
        replace=replace,
        durable=not no_durable,
        identities=identities,
        recipients=recipients,
    )

    async def run() -> Answer:
        report = await work()
        return Answer(content=asdict(report), text=partial(_text, report))

    return Job(work=run, as_json=as_json)


def _text(report: ConversionReport) -> Group:
    return output.lines(
        f"converted to {output.text_of(report.path)}",
        output.fields(
            [
                ("format", report.format),
                ("shared", output.size(report.linked_bytes)),
                ("written", output.size(report.copied_bytes)),
            ]
        ),
        *(f"warning: {output.text_of(warning)}" for warning in report.warnings),
    )

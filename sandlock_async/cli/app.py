"""``sandlock-async``: from the arguments to an exit code."""

import sys
import traceback

import rich_click as click

import sandlock_async
from sandlock_async.cli import output
from sandlock_async.cli.capture import capture
from sandlock_async.cli.check import check
from sandlock_async.cli.convert import convert
from sandlock_async.cli.demo import demo
from sandlock_async.cli.inspect import inspect
from sandlock_async.cli.interrupts import Interrupted, run_interruptible
from sandlock_async.cli.job import Job, examples
from sandlock_async.cli.list import list_
from sandlock_async.cli.verify import verify
from sandlock_async.errors import SandlockAsyncError, UnusableKeyError

PROGRAM = "sandlock-async"

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "sandlock-async demo",
        "sandlock-async check 4242 --directory ckpt/web",
        "sandlock-async capture 4242 ckpt/web",
        "sandlock-async inspect ckpt/web",
        "sandlock-async list ckpt",
        "sandlock-async verify ckpt/web",
    ),
)
@click.rich_config(help_config=output.help_style())
@click.version_option(
    sandlock_async.__version__, prog_name=PROGRAM, message="%(prog)s %(version)s"
)
@click.pass_context
def app(context: click.Context) -> None:
    """Capture running Linux processes to sandlock checkpoint directories.

    The process stands still for a moment, and runs on. `demo` shows it all on a
    real sandbox.

    Text for people goes to stderr; with --json a command prints one JSON object on
    stdout. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done, and found something
    wrong (verify, check), 130 interrupted (Ctrl-C), 143 terminated.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (demo, capture, inspect, list_, convert, verify, check):
    app.add_command(_command)


def run() -> int:
    """Do what the command line says; return the exit code."""
    arguments = sys.argv[1:]
    as_json = _wants_json(arguments)
    try:
        job = app.main(arguments, prog_name=PROGRAM, standalone_mode=False)
        if not isinstance(job, Job):
            return 0  # --help or --version, which is done
        as_json = job.as_json
        answer = run_interruptible(job.work)
    except click.ClickException as error:
        return output.fail(_usage_failure(error), WRONG_USAGE, as_json=as_json)
    except Interrupted as error:
        failure = output.Failure(type="Interrupted", message=str(error))
        return output.fail(failure, 128 + error.signal, as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        failure = output.Failure(type="Interrupted", message="interrupted")
        return output.fail(failure, INTERRUPTED, as_json=as_json)
    except SandlockAsyncError as error:
        failure = output.Failure(
            type=type(error).__name__, message=str(error), help=error.help
        )
        wrong = isinstance(error, UnusableKeyError)  # it was on the command line
        return output.fail(failure, WRONG_USAGE if wrong else FAILED, as_json=as_json)
    except OSError as error:
        return output.fail(_system_failure(error), FAILED, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the last one to know
        traceback.print_exc()
        failure = output.Failure(
            type=type(error).__name__,
            message=str(error),
            help="this is a bug: please report it with what is above",
        )
        return output.fail(failure, FAILED, as_json=as_json)
    try:
        return output.show(answer, as_json=as_json)
    except OSError as error:
        return output.fail(_system_failure(error), FAILED, as_json=False)


def _wants_json(arguments: list[str]) -> bool:
    """Whether ``--json`` is among the options, however wrong the others are."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _usage_failure(error: click.ClickException) -> output.Failure:
    context = getattr(error, "ctx", None)
    command = PROGRAM if context is None else context.command_path
    return output.Failure(
        type=type(error).__name__,
        message=error.format_message(),
        help=f"{command} --help tells how it is used",
    )


def _system_failure(error: OSError) -> output.Failure:
    message = error.strerror or str(error)
    if error.filename is not None:
        message = f"{output.text_of(error.filename)}: {message}"
    denied = isinstance(error, PermissionError)
    help_ = "use an account, or a file, with the rights for it" if denied else ""
    return output.Failure(type=type(error).__name__, message=message, help=help_)

"""``python -m sandlock_async``, and the command ``sandlock-async``."""

import sys

_INTERRUPTED = 130


def main() -> None:
    """Run the command line, or say what it lacks."""
    try:
        from sandlock_async.cli import run

        code = run()
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "rich_click", "click"):
            raise
        sys.exit("the command line needs more: pip install 'sandlock-async[cli]'")
    except KeyboardInterrupt:
        # Before run() could see to it; it may not even be there yet.
        code = _INTERRUPTED
        _say_interrupted()
    sys.exit(code)


def _say_interrupted() -> None:
    try:
        if "--json" in sys.argv[1:]:
            failure = '{"type":"Interrupted","message":"interrupted","help":""}'
            sys.stdout.write(f'{{"error":{failure}}}\n')
            sys.stdout.flush()
        else:
            sys.stderr.write("error: interrupted\n")
    except (OSError, AttributeError):
        pass  # nobody reads it, or it is closed


if __name__ == "__main__":
    main()

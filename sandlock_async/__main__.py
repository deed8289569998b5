"""``python -m sandlock_async``, and the command ``sandlock-async``."""

import sys


def main() -> None:
    """Run the command line, or say what it lacks."""
    try:
        from sandlock_async.cli import run
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "rich_click", "click"):
            raise
        sys.exit("the command line needs more: pip install 'sandlock-async[cli]'")
    sys.exit(run())


if __name__ == "__main__":
    main()

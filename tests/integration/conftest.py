"""The published releases of sandlock, from the package registry."""

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.integration.wheels import RELEASES, Wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Wheel]:
    """The release that writes a layout, in a venv with nothing else."""
    kept = os.environ.get("SANDLOCK_ASYNC_CACHE")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("wheels")
    answers = tmp_path_factory.mktemp("answers")

    @cache
    def install(layout: str) -> Wheel:
        version = RELEASES[layout]
        home = folder / f"sandlock-{version}-{sys.version_info[0]}{sys.version_info[1]}"
        python = home / "bin" / "python"
        if not (home / "ready").exists():
            venv.create(home, with_pip=True)
            pip = [python, "-m", "pip", "install", "-q", f"sandlock=={version}"]
            done = subprocess.run(pip, check=False, capture_output=True, text=True)
            if done.returncode:
                missing(f"sandlock {version} from the package registry: {done.stderr}")
            (home / "ready").touch()
        return Wheel(version, python, answers)

    return install

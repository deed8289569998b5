"""The examples of the README and the docs are run as they stand."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser


@pytest.fixture
def pid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What the examples capture, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md"],
    fixtures=["pid"],
).pytest()

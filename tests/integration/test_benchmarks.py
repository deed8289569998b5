"""The benchmarks run, each by itself, and write what they have measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.sandboxes import python_with
from tests.conftest import missing

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def releases() -> None:
    for version in ("0.8.2", "0.9.0"):
        try:
            python_with(version)
        except subprocess.CalledProcessError as error:
            missing(f"sandlock {version} from the package registry: {error}")


NAMES = (
    *("dense", "sparse", "probe", "growth", "tiny"),
    *("busy", "lag", "torn", "many", "sandboxes"),
)


@pytest.mark.parametrize("name", NAMES)
def test_scenario(name: str, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "benchmarks", name, "--quick", "--output", tmp_path],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=100,
    )

    found = json.loads((tmp_path / "results.json").read_text())
    rows = found[name]["rows"]
    assert rows
    assert all(row["median"] >= 0 for row in rows.values())
    assert f"## {name}" in (tmp_path / "results.md").read_text()

"""The linters of ament, on the style that ruff keeps here."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [str(ROOT / name) for name in ("robot_perception", "launch", "test", "benchmarks")]
# Where the first sentence of a docstring stands, how it begins and how long it is.
LAYOUT = ["D205", "D209", "D213", "D400", "D401", "D402", "D403", "D415"]


def lint(name: str, *arguments: str) -> None:
    """In a process of its own: flake8 forks, which one with threads must not."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}")
    program = f"import sys; from {name}.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_flake8() -> None:
    lint("ament_flake8", "--config", str(ROOT / "setup.cfg"), *SOURCES)


def test_pep257() -> None:
    lint("ament_pep257", "--add-ignore", *LAYOUT, "--", *SOURCES)


def test_xmllint() -> None:
    if not shutil.which("xmllint"):
        pytest.skip("needs xmllint (libxml2-utils)")
    # package.xml names its schema by an address, which need not be reachable: colcon reads it.
    lint("ament_xmllint", *(str(path) for path in sorted((ROOT / "config").glob("*.xml"))))

"""The linters of ament, on the style that ruff keeps here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [str(ROOT / name) for name in ("robot_perception", "launch", "test", "benchmarks")]
# Where the first sentence of a docstring stands, how it begins and how long it is.
LAYOUT = ["D205", "D209", "D213", "D400", "D401", "D402", "D403", "D415"]


def test_flake8() -> None:
    flake8 = pytest.importorskip("ament_flake8.main")
    assert flake8.main(["--config", str(ROOT / "setup.cfg"), *SOURCES]) == 0


def test_pep257() -> None:
    pep257 = pytest.importorskip("ament_pep257.main")
    assert pep257.main(["--add-ignore", *LAYOUT, "--", *SOURCES]) == 0


def test_xmllint() -> None:
    xmllint = pytest.importorskip("ament_xmllint.main")
    if not shutil.which("xmllint"):
        pytest.skip("needs xmllint (libxml2-utils)")
    # package.xml names its schema by an address, which need not be reachable: colcon reads it.
    assert xmllint.main([str(path) for path in sorted((ROOT / "config").glob("*.xml"))]) == 0

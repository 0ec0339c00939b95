"""What the documentation names exists: pages, sections, commands, options, files, parameters."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import typer

from robot_perception.apps.cli import app
from robot_perception.core.config import ForecastConfig, RevisitConfig, SegmentationConfig
from robot_perception.pipeline.settings import load_tasks

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGS = {
    "segmentation": SegmentationConfig, "revisit": RevisitConfig, "forecast": ForecastConfig
}  # fmt: skip


def prose(page: Path) -> str:
    """Without code blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.S | re.M)


@cache
def sections(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def shell_lines(page: Path) -> Iterator[list[str]]:
    for block in re.findall(r"^ *```sh\n(.*?)^ *```$", page.read_text(), re.S | re.M):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def ours(words: list[str]) -> list[str] | None:
    """The arguments of `robot-perception` in a shell line, however it is started."""
    for name in ("robot-perception", "robot_perception.apps.cli"):
        if name in words:
            return words[words.index(name) + 1 :]
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:|mailto:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in sections(path), f"{page.name}: {link}"


def test_every_page_is_found_from_the_index() -> None:
    seen, waiting = set(), [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)#\s]+)", prose(page))
        waiting += [(page.parent / link).resolve() for link in links if "://" not in link]
    assert set((ROOT / "docs").rglob("*.md")) <= seen | {ROOT / "docs/reliability/notes.md"}


def test_commands_and_options_exist() -> None:
    root = typer.main.get_command(app)
    count = 0
    for page in PAGES:
        for words in shell_lines(page):
            arguments = ours(words)
            if arguments is None:
                continue
            command, rest = root, list(arguments)
            while hasattr(command, "commands"):
                assert rest and rest[0] in command.commands, f"{page.name}: {shlex.join(words)}"
                command = command.commands[rest.pop(0)]
            known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
            for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
                assert option in known, f"{page.name}: {option} in {shlex.join(words)}"
            pairs = [value for option, value in zip(rest, rest[1:], strict=False)
                     if option == "--set"]  # fmt: skip
            load_tasks(None, pairs)
            count += 1
    assert count > 30


def test_make_targets_exist() -> None:
    for page in PAGES:
        for words in shell_lines(page):
            if words[0] == "make":
                subprocess.run(
                    ["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True
                )


def test_parameters_and_files_exist() -> None:
    """`revisit.regions` and the like, and paths in backticks."""
    known = {f"{task}.{f.name}" for task, config in CONFIGS.items() for f in fields(config)}
    for page in PAGES:
        for name in re.findall(r"`([^`\n]+)`", prose(page)):
            parameter = re.match(r"(segmentation|revisit|forecast)\.[a-z_]+(?=$|:)", name)
            if parameter and not name.endswith((".py", ".yaml", ".md")):
                assert parameter.group() in known, f"{page.name}: {name}"
            top = name.split("/")[0]
            if top in ("docs", "config", "launch", "scripts", "benchmarks", "test", "core"):
                path = ROOT / "robot_perception" / name if top == "core" else ROOT / name
                assert "*" in name or " " in name or path.exists(), f"{page.name}: {name}"

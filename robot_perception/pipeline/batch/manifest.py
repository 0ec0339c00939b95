"""What has been done of many recordings: one entry each, in one file."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from robot_perception.core.files import replace_text
from robot_perception.pipeline.batch.one import ASIDE, FAILED, Outcome, read_result

MANIFEST = "manifest.json"
_FORMAT = "robot_perception batch 1"


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the folder of a batch against another one; what a killed one left aside is removed.

    Raises ValueError where another is at work, and OSError.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another batch is writing to {out}") from error
        shutil.rmtree(out / ASIDE, ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(out / ASIDE, ignore_errors=True)


class Manifest:
    """Entries by recording. The folders with results are the truth: the manifest says which of
    them belongs to which recording, and what failed."""

    def __init__(self, out: Path, configuration: str) -> None:
        self._out = out
        self._configuration = configuration
        self._entries: dict[str, dict[str, Any]] = {}
        try:
            document = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
            if document["format"] == _FORMAT:
                self._entries = {e["recording"]: e for e in document["recordings"]}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{out / MANIFEST} cannot be read: {error}") from error

    def finished(self, recording: str, identity: str) -> Outcome | None:
        """What became of the recording, if it has not changed since and was processed likewise."""
        entry = self._entries.get(recording)
        if entry is None or entry["status"] == FAILED:
            return None
        if (entry["identity"], entry["configuration"]) != (identity, self._configuration):
            return None
        result = read_result(self._out / entry["folder"])
        if result is None or result.key != entry["key"]:
            return None
        return Outcome(**{**asdict(result), **_own(entry)})

    def put(self, outcome: Outcome) -> None:
        """Take note; `save` writes it."""
        entry = {k: v for k, v in asdict(outcome).items() if k not in ("summary", "again")}
        entry["configuration"] = self._configuration
        self._entries[outcome.recording] = entry

    def save(self) -> None:
        """Write aside and rename. Raises OSError."""
        document = {
            "format": _FORMAT,
            "recordings": [self._entries[name] for name in sorted(self._entries)],
        }
        replace_text(self._out / MANIFEST, json.dumps(document, indent=1))


def _own(entry: dict[str, Any]) -> dict[str, Any]:
    names = ("recording", "identity", "seconds", "worker", "attempts")
    return {name: entry[name] for name in names}

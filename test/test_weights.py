"""Checkpoints: only whole state dicts get in, and nothing in a file runs."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robot_perception.apps.cli import main
from robot_perception.core import weights
from robot_perception.core.errors import WeightsRejected
from robot_perception.core.weights import (
    Checkpoint,
    fetch,
    file_sha256,
    load_checkpoint,
    load_into,
    load_state_dict,
    manifest,
    pick_device,
    resolve,
    verify,
)


class Payload:
    """A pickle that makes a file when it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_state_dicts_load_from_both_formats(tmp_path: Path, wrapper: str | None) -> None:
    state = nn.Linear(3, 2).state_dict()
    torch.save({wrapper: state} if wrapper else state, tmp_path / "a.pth")
    save_file(state, tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        module = nn.Linear(3, 2)
        load_into(module, load_state_dict(tmp_path / name))
        assert torch.equal(module.weight, state["weight"])


def test_a_hostile_pickle_does_not_run(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    torch.save({"weight": Payload(planted)}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Payload(planted)))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(WeightsRejected):
            load_state_dict(tmp_path / name)
    assert not planted.exists()


def test_broken_files_are_rejected(tmp_path: Path) -> None:
    good = tmp_path / "good.pth"
    torch.save(nn.Linear(30, 20).state_dict(), good)
    data = good.read_bytes()
    for i, cut in enumerate((0, 10, len(data) // 2, len(data) - 5)):
        path = tmp_path / f"{i}.pth"
        path.write_bytes(data[:cut])
        with pytest.raises(WeightsRejected):
            load_state_dict(path)
    with pytest.raises(WeightsRejected, match="sha256"):
        load_state_dict(good, "0" * 64)
    assert load_state_dict(good, file_sha256(good))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsRejected, match="no state dict"):
        load_state_dict(tmp_path / "list.pth")


def test_weights_of_another_model_are_rejected() -> None:
    with pytest.raises(WeightsRejected, match="mismatch"):
        load_into(nn.Linear(3, 2), nn.Linear(4, 2).state_dict())
    bad = {"weight": torch.full((2, 3), float("nan")), "bias": torch.zeros(2)}
    with pytest.raises(WeightsRejected, match="finite"):
        load_into(nn.Linear(3, 2), bad)


def test_values_of_another_kind_are_rejected(tmp_path: Path) -> None:
    whole = {"weight": torch.ones(2, 3, dtype=torch.int64), "bias": torch.zeros(2)}
    with pytest.raises(WeightsRejected, match="int64"):
        load_into(nn.Linear(3, 2), whole)
    half = {k: v.half() for k, v in nn.Linear(3, 2).state_dict().items()}
    load_into(nn.Linear(3, 2), half)
    torch.save({"weight": torch.ones(2, 3).to_sparse()}, tmp_path / "sparse.pth")
    with pytest.raises(WeightsRejected, match="dense"):
        load_state_dict(tmp_path / "sparse.pth")


def test_the_manifest_is_well_formed() -> None:
    for name, checkpoint in manifest().items():
        assert checkpoint.name == name and checkpoint.url.startswith("https://")
        assert checkpoint.file.endswith((".pth", ".pt")) and checkpoint.licence
        assert checkpoint.sha256 is None or len(bytes.fromhex(checkpoint.sha256)) == 32
        assert checkpoint.size is None or checkpoint.size > 10**6
    assert len({c.file for c in manifest().values()}) == len(manifest())


class Server(BaseHTTPRequestHandler):
    """Serves one file; `resumes` and `cut` say how well."""

    data = b""
    resumes = True
    cut = 0
    asked: list[str | None] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        Server.asked.append(wanted)
        start = int(wanted[6:-1]) if wanted and self.resumes else 0
        if start >= len(self.data):
            self.send_error(416)
            return
        body = self.data[start:]
        self.send_response(206 if start else 200)
        if start:
            last = len(self.data) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(self.data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) - self.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkpoint]:
    """A small checkpoint named `tiny` on a server of this machine."""
    torch.save(nn.Linear(30, 20).state_dict(), tmp_path / "made.pth")
    monkeypatch.setattr(Server, "data", (tmp_path / "made.pth").read_bytes())
    monkeypatch.setattr(Server, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/tiny.pth"
    sha256 = hashlib.sha256(Server.data).hexdigest()
    tiny = Checkpoint("tiny", "test", "linear", url, sha256, len(Server.data), "none")
    monkeypatch.setattr(weights, "manifest", lambda: {"tiny": tiny})
    monkeypatch.setenv("ROBOT_PERCEPTION_WEIGHTS", str(tmp_path / "cache"))
    yield tiny
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_goes_on_where_it_stopped(
    registered: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsRejected, match="weights fetch tiny"):
        load_checkpoint("tiny")
    monkeypatch.setattr(Server, "cut", 1000)
    with pytest.raises(WeightsRejected, match="connection ended"):
        fetch("tiny")
    assert not registered.path.exists()
    monkeypatch.setattr(Server, "cut", 0)
    seen: list[tuple[int, int | None]] = []
    assert fetch("tiny", lambda *step: seen.append(step)) == registered.path
    assert registered.path.read_bytes() == Server.data
    assert Server.asked == [None, f"bytes={len(Server.data) - 1000}-"]
    assert seen[-1] == (len(Server.data), len(Server.data))
    assert verify("tiny") and load_checkpoint("tiny")
    assert fetch("tiny") == registered.path and len(Server.asked) == 2
    assert list(registered.path.parent.iterdir()) == [registered.path]


@pytest.mark.parametrize("resumes", [True, False])
def test_a_part_of_something_else_ends_well(
    registered: Checkpoint, monkeypatch: pytest.MonkeyPatch, resumes: bool
) -> None:
    """Longer than the file, or from a server that cannot go on: begun anew."""
    monkeypatch.setattr(Server, "resumes", resumes)
    registered.path.parent.mkdir()
    length = len(Server.data) + 5 if resumes else 7
    registered.path.with_name("tiny.pth.part").write_bytes(b"x" * length)
    assert fetch("tiny").read_bytes() == Server.data


def test_another_file_is_not_kept(registered: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "data", Server.data[:-1] + b"?")
    with pytest.raises(WeightsRejected, match="sha256"):
        fetch("tiny")
    assert not list(registered.path.parent.iterdir())
    registered.path.write_bytes(b"damaged")
    for check in (verify, load_checkpoint):
        with pytest.raises(WeightsRejected):
            check("tiny")
    with pytest.raises(WeightsRejected, match="registered"):
        fetch("huge")


def test_the_command_line_lists_fetches_and_verifies(
    registered: Checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["present"] is False
    monkeypatch.setattr(Server, "cut", 100)
    assert main(["weights", "fetch", "tiny"]) == 2
    monkeypatch.setattr(Server, "cut", 0)
    assert main(["weights", "fetch", "tiny"]) == 0
    assert main(["weights", "verify"]) == 0
    registered.path.write_bytes(b"damaged")
    assert main(["weights", "verify", "tiny"]) == 2
    assert main(["weights", "fetch", "huge"]) == 2


def test_names_are_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOT_PERCEPTION_WEIGHTS", str(tmp_path))
    (tmp_path / "x.pth").write_bytes(b"")
    assert resolve("x.pth") == tmp_path / "x.pth"
    for missing in ("", "y.pth"):
        with pytest.raises(WeightsRejected):
            resolve(missing)
    with pytest.raises(ValueError):
        pick_device("toaster")

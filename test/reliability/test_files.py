"""Checkpoints, maps and vocabularies that are cut, flipped or hostile; kill -9 while saving."""

from __future__ import annotations

import json
import os
import pickle
import signal
import struct
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from figures import cases, record
from safetensors.torch import save_file
from test_revisit import QUICK, drive, place
from test_weights import Payload
from torch import nn

from robot_perception.core.errors import WeightsRejected
from robot_perception.core.revisit import storage
from robot_perception.core.revisit.detector import RevisitDetector
from robot_perception.core.revisit.fit import load_vocabulary, save_vocabulary
from robot_perception.core.revisit.keyframes import load_map, save_map
from robot_perception.core.weights import file_sha256, load_into, load_state_dict

Loader = Callable[[Path], object]


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 4))


def damaged(data: bytes, i: int, rng: np.random.Generator) -> bytes:
    """The i-th damage: a cut, flipped bits (in the header, or anywhere), bytes put in or wiped."""
    changed = bytearray(data)
    kind = i % 5
    if kind == 0:
        return bytes(changed[: int(rng.integers(0, len(data)))])
    if kind in (1, 2):
        high = min(len(data), 600) if kind == 1 else len(data)
        for at in rng.integers(0, high, int(rng.integers(1, 5))):
            changed[at] ^= 1 << int(rng.integers(0, 8))
        return bytes(changed)
    at = int(rng.integers(0, len(data)))
    if kind == 3:
        return bytes(changed[:at] + rng.bytes(int(rng.integers(1, 40))) + changed[at:])
    changed[at : at + 50] = bytes(len(changed[at : at + 50]))
    return bytes(changed)


def same_tensors(a: object, b: object) -> bool:
    assert isinstance(a, dict) and isinstance(b, dict)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def try_all(
    path: Path, load: Loader, right: Callable[[object], bool], count: int, seed: int
) -> Counter[str]:
    """Load `count` damaged versions of `path`: refused, unchanged in what counts, or wrong."""
    data = path.read_bytes()
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    other = path.with_name(f"damaged{path.suffix}")
    for i in range(count):
        content = damaged(data, i, rng)
        other.write_bytes(content)
        try:
            loaded = load(other)
        except WeightsRejected as error:
            assert 0 < len(str(error)) < 500
            outcomes["refused"] += 1
        else:
            outcomes["right" if right(loaded) else "wrong"] += 1
    return outcomes


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_checkpoints(suffix: str, tmp_path: Path) -> None:
    """With the sha256 known nothing gets in; without it, nothing but finite values that fit."""
    path = tmp_path / f"good{suffix}"
    state = model().state_dict()
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    sha256 = file_sha256(path)
    count = cases(60, 400)

    def known(other: Path) -> object:
        return load_state_dict(other, sha256)

    def fits(other: Path) -> object:
        found = load_state_dict(other)
        load_into(model(), found)
        return found

    with_sum = try_all(path, known, lambda s: same_tensors(s, state), count, 1)
    assert not with_sum["wrong"]
    without = try_all(path, fits, lambda s: same_tensors(s, state), count, 2)
    for outcome, what in ((with_sum, "with its sha256"), (without, "without a sha256")):
        record(
            "files",
            f"Checkpoint {suffix}, {what}: cut, flipped, grown, wiped",
            "refused, or what was saved"
            if outcome is with_sum
            else "refused, or finite values of the right shapes",
            count,
            **{k: outcome[k] for k in ("refused", "right")},
            changed_values=outcome["wrong"],
        )


def detector_with_map() -> RevisitDetector:
    detector = RevisitDetector(QUICK)
    drive(detector, [place(s) for s in range(4)])
    return detector


def fingerprint(loaded: Any) -> str:
    vocabulary, keyframes, edges = loaded[:3]
    parts = {"edges": edges, "components": vocabulary.components, "mean": vocabulary.mean}
    for k in keyframes:
        for name in ("descriptors", "image_descriptor", "keypoints", "thumbnail"):
            parts[f"{k.id} {name}"] = np.asarray(getattr(k, name))
        parts[f"{k.id} stamp"] = np.array([k.stamp_ns, *k.size])
    return storage.digest(parts)


def test_damaged_maps_and_vocabularies(tmp_path: Path) -> None:
    detector = detector_with_map()
    path = tmp_path / "good.map"
    detector.save(path)
    good = load_map(path, detector.backend)
    expected = fingerprint(good)
    count = cases(60, 500)
    outcomes = try_all(
        path,
        lambda p: load_map(p, detector.backend),
        lambda m: fingerprint(m) == expected,
        count,
        3,
    )
    assert not outcomes["wrong"] and outcomes["refused"] > 0.8 * count
    # A map that was refused leaves the one in use alone.
    path.with_name("damaged.map").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsRejected):
        detector.load(path.with_name("damaged.map"))
    assert len(detector.keyframes) == 4
    demanded = "refused, or exactly what was saved"
    record("files", "Map: cut, flipped, grown, wiped", demanded, count, **outcomes, wrong=0)
    vocabulary = tmp_path / "good.vocabulary"
    save_vocabulary(vocabulary, detector.backend, good[0])
    extract = detector._extract
    whole = load_vocabulary(vocabulary, extract)[0]

    def equal(loaded: Any) -> bool:
        return all(
            np.array_equal(getattr(loaded[0], n), getattr(whole, n))
            for n in ("centres", "mean", "components")
        )

    outcomes = try_all(vocabulary, lambda p: load_vocabulary(p, extract), equal, count, 4)
    assert not outcomes["wrong"]
    record("files", "Vocabulary: cut, flipped, grown, wiped", demanded, count, **outcomes, wrong=0)


def safetensors_of(head: Any, body: bytes = b"", length: int | None = None) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


_OURS = {"robot_perception": json.dumps({"format": "robot_perception place map 1"})}
HOSTILE_SAFETENSORS: dict[str, bytes] = {
    "header of 2^63 bytes": safetensors_of(b"{}", length=2**63),
    "header longer than the file": safetensors_of(b"{}", length=50),
    "header is no JSON": safetensors_of(b"{[}"),
    "header nested deeply": safetensors_of(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "offsets beyond the file": safetensors_of({"a": tensor(offsets=(0, 2**40))}, bytes(8)),
    "offsets backwards": safetensors_of({"a": tensor(offsets=(8, 0))}, bytes(8)),
    "offsets that overlap": safetensors_of({"a": tensor(), "b": tensor()}, bytes(8)),
    "shape overflows": safetensors_of({"a": tensor(shape=(2**40, 2**40))}, bytes(8)),
    "shape of 2^62 values": safetensors_of({"a": tensor(shape=(2**62,))}, bytes(8)),
    "negative shape": safetensors_of({"a": tensor(shape=(-2,))}, bytes(8)),
    "unknown dtype": safetensors_of({"a": tensor("Q99")}, bytes(8)),
    "bfloat16 in a map": safetensors_of({"a": tensor("BF16", (4,))}, bytes(8)),
    "eight-bit floats in a map": safetensors_of({"a": tensor("F8_E4M3", (8,))}, bytes(8)),
    "no tensors": safetensors_of({"__metadata__": _OURS}),
    "metadata of numbers": safetensors_of({"__metadata__": {"robot_perception": 5}}),
    "metadata is no JSON": safetensors_of({"__metadata__": {"robot_perception": "{"}}),
    "metadata is a list": safetensors_of({"__metadata__": {"robot_perception": "[]"}}),
    "metadata nested deeply": safetensors_of(
        {"__metadata__": {"robot_perception": "[" * 100_000}, "a": tensor()}, bytes(8)
    ),
    "metadata with a huge number": safetensors_of(
        {"__metadata__": {"robot_perception": "1" * 10_000}, "a": tensor()}, bytes(8)
    ),
    "empty": b"",
    "seven bytes": bytes(7),
    "zeros": bytes(5000),
    "text": b"<html>404 Not Found</html>" * 40,
}


def hostile_pickles(planted: Path) -> dict[str, Callable[[Path], None]]:
    """Files that would make `planted` if anything in them ran."""
    payload = Payload(planted)

    def in_zip(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(payload))
            archive.writestr("archive/version", "3\n")

    def torchscript(path: Path) -> None:
        module = torch.jit.script(nn.Linear(2, 2))
        torch.jit.save(module, path)

    return {
        "a bare pickle": lambda p: p.write_bytes(pickle.dumps(payload)) and None,
        "a pickle of protocol 0": lambda p: p.write_bytes(pickle.dumps(payload, 0)) and None,
        "in a state dict": lambda p: torch.save({"a": payload}, p),
        "beside good tensors": lambda p: torch.save({**model().state_dict(), "a": payload}, p),
        "as a key": lambda p: torch.save({payload: torch.zeros(2)}, p),
        "under a wrapper": lambda p: torch.save({"model": {"a": payload}}, p),
        "in the legacy format": lambda p: torch.save(
            {"a": payload}, p, _use_new_zipfile_serialization=False
        ),
        "a whole module": lambda p: torch.save(model(), p),
        "in a zip": in_zip,
        "TorchScript": torchscript,
        "an eval": lambda p: (
            p.write_bytes(b"cbuiltins\neval\n(S'open(%r, \"w\")'\ntR." % str(planted).encode())
            and None
        ),
        "an import": lambda p: p.write_bytes(b"cantigravity\ngeohash\n.") and None,
    }


def test_hostile_files_are_refused_and_nothing_in_them_runs(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    detector = RevisitDetector(QUICK)
    readers: dict[str, Loader] = {
        ".pth": load_state_dict,
        ".safetensors": load_state_dict,
        ".map": lambda p: load_map(p, detector.backend),
        ".vocabulary": lambda p: load_vocabulary(p, detector._extract),
    }
    tried = 0
    passed: list[str] = []
    for suffix, load in readers.items():
        files: dict[str, Callable[[Path], object]] = {
            name: (lambda p, data=data: p.write_bytes(data))
            for name, data in HOSTILE_SAFETENSORS.items()
        }
        files |= hostile_pickles(planted)
        for name, write in files.items():
            path = tmp_path / f"hostile{suffix}"
            path.unlink(missing_ok=True)
            write(path)
            tried += 1
            try:
                load(path)
            except WeightsRejected as error:
                assert len(str(error)) < 500, name
            else:
                passed.append(f"{name}{suffix}")
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises((WeightsRejected, OSError)):
            load(tmp_path / f"folder{suffix}")
    assert not planted.exists()
    # Good files for a checkpoint, whose types and metadata a map does not know.
    good = (
        "bfloat16 in a map",
        "eight-bit floats in a map",
        "metadata nested deeply",
        "metadata with a huge number",
    )
    assert passed == [f"{name}.safetensors" for name in good]
    record(
        "files",
        "Hostile checkpoints, maps and vocabularies",
        "refused; no planted payload runs",
        tried,
        payloads_run=0,
    )


def test_kill_while_saving_leaves_the_old_or_the_new_map(tmp_path: Path) -> None:
    detector = detector_with_map()
    saved = tmp_path / "first.map"
    detector.save(saved)
    vocabulary, keyframes, edges, *_ = load_map(saved, detector.backend)
    # A few megabytes, so that the kill often falls into the writing.
    versions = [keyframes * 40, keyframes * 30]
    path = tmp_path / "place.map"

    def save(which: int) -> None:
        save_map(path, detector.backend, vocabulary, versions[which], edges)

    expected = []
    for which in (0, 1):
        save(which)
        expected.append(fingerprint(load_map(path, detector.backend)))
    start = time.perf_counter()
    save(0)
    once = time.perf_counter() - start
    rng = np.random.default_rng(6)
    kills = cases(10, 200)
    found: Counter[int] = Counter()
    interrupted = 0
    for i in range(kills):
        child = os.fork()
        if child == 0:
            # The child writes the other version, for as long as it is let.
            try:
                for k in range(100):
                    save((i + 1 + k) % 2)
            finally:
                os._exit(0)
        time.sleep(float(rng.uniform(0.0, 2.5 * once)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        interrupted += path.with_name("place.map.part").exists()
        now = fingerprint(load_map(path, detector.backend))
        assert now in expected
        found[expected.index(now)] += 1
    save(0)  # what a kill leaves behind does not stand in the way
    assert fingerprint(load_map(path, detector.backend)) == expected[0]
    record(
        "files",
        "kill -9 while a map is saved",
        "the old or the new map, whole",
        kills,
        killed_in_the_middle_of_writing=interrupted,
        broken_maps=0,
        size_mb=round(path.stat().st_size / 1e6, 1),
    )


def test_a_full_disk_while_saving_keeps_the_old_map(tmp_path: Path) -> None:
    """The limit on file sizes stands for the full disk: writing fails half way."""
    import resource

    detector = detector_with_map()
    path = tmp_path / "place.map"
    detector.save(path)
    before = path.read_bytes()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            limit = len(before) // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                detector.save(path)
            except OSError as error:
                status = 0 if error.strerror else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["place.map"]
    record("files", "Disk full while a map is saved", "one error; the old map stays", 1, kept=1)

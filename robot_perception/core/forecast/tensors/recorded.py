"""Work for a GPU, recorded once and then played back: to launch hundreds of small kernels one by
one takes longer than they do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Tensors: TypeAlias = tuple[Tensor, ...]
# Runs before the recording: libraries choose their kernels in the first ones.
_WARM_UP = 3


class Recorded:
    """`function` of tensors, as one CUDA graph for each set of shapes; on the CPU as it is.

    It must not wait for the device nor ask for values. What it returns is overwritten by the next
    call: copy what is to be kept. Where it cannot be recorded it runs as it is, with one warning.
    """

    def __init__(self, function: Callable[..., Tensors]) -> None:
        self._function = function
        self._graphs: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, Tensors, Tensors]] = {}
        self._recordable = True

    def __call__(self, *inputs: Tensor) -> Tensors:
        if inputs[0].device.type != "cuda" or not self._recordable:
            return self._function(*inputs)
        key = tuple((t.shape, t.dtype) for t in inputs)
        if key not in self._graphs:
            try:
                self._graphs[key] = _record(self._function, inputs)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                # A driver or a library that cannot: slower, but no reason to do without.
                self._recordable = False
                warnings.warn(f"no CUDA graph: {str(error).splitlines()[0]}", stacklevel=2)
                return self._function(*inputs)
        graph, own, outputs = self._graphs[key]
        torch._foreach_copy_(list(own), list(inputs))
        graph.replay()
        return outputs


def _record(
    function: Callable[..., Tensors], inputs: Tensors
) -> tuple[torch.cuda.CUDAGraph, Tensors, Tensors]:
    own = tuple(t.clone() for t in inputs)
    stream = torch.cuda.Stream(own[0].device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(own[0].device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            function(*own)
    torch.cuda.current_stream(own[0].device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads go on using the device meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = function(*own)
    return graph, own, outputs

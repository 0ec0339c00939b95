"""What a stage does when its device runs out of memory or is lost."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

OUT_OF_MEMORY, LOST = "out of memory", "device lost"
# A lost device reports one of these with whatever it is asked to do next.
_LOST_SIGNS = ("CUDA error", "device-side assert", "CUDNN_STATUS", "cuBLAS", "CUBLAS_STATUS")


class DeviceFault(RuntimeError):
    """A frame was given up because of its device; the text says which fault."""


class DeviceGuard:
    """Runs the steps of a stage through faults of their device, and counts these.

    Out of memory: free what is cached and try again; then with a smaller batch, where the stage has
    one; then, as `policy` says, on the CPU from now on ("cpu"), or give the frame up ("drop"). A
    lost device cannot be tried again in this process: straight to the last. Thread-safe counts.
    """

    def __init__(self, policy: str) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, int]:
        """How often what happened, by stage, since the start."""
        with self._lock:
            return dict(self._counts)

    def run(
        self,
        stage: str,
        step: Callable[[], T],
        to_cpu: Callable[[], None],
        smaller_batch: Callable[[], bool] = lambda: False,
    ) -> T:
        """The result of `step`; raises DeviceFault, and what `step` raises for other reasons.

        `smaller_batch` says whether it could make the batch smaller.
        """
        tried = False
        while True:
            try:
                return step()
            except (RuntimeError, MemoryError) as error:
                fault = fault_of(error)
                if fault is None:
                    raise
                # Its traceback would hold the tensors of the failed step.
                cause = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            self._count(f"{stage}: {fault}")
            if fault == OUT_OF_MEMORY:
                free()
                if not tried:
                    tried = True
                    self._count(f"{stage}: tried again")
                    continue
                if smaller_batch():
                    self._count(f"{stage}: smaller batch")
                    continue
            if self._policy == "cpu" and not self._moved(stage):
                to_cpu()
                self._count(f"{stage}: moved to the CPU")
                continue
            self._count(f"{stage}: frames given up")
            raise DeviceFault(f"{fault} ({cause})")

    def _moved(self, stage: str) -> bool:
        with self._lock:
            return bool(self._counts[f"{stage}: moved to the CPU"])

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1


def fault_of(error: BaseException) -> str | None:
    """OUT_OF_MEMORY or LOST; None for an error that is not the device's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return OUT_OF_MEMORY
    text = str(error)
    if "can't allocate memory" in text or "out of memory" in text:
        return OUT_OF_MEMORY
    # Newer releases of torch have a class of their own for it.
    lost = getattr(torch, "AcceleratorError", ())
    if isinstance(error, lost) or any(sign in text for sign in _LOST_SIGNS):
        return LOST
    return None


def free() -> None:
    """Give back what is no longer used, on the host and on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

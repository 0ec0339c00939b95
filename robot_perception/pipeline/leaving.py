"""The end of a process, at once."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """End this process now, with what was printed on its way; files must be closed already.

    The interpreter's own end takes seconds once torch is loaded, and waits for, or crashes on,
    what still computes in another thread.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)

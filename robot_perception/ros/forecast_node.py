"""The forecast node."""

from __future__ import annotations

import sys

from robot_perception.pipeline.perception import FORECAST
from robot_perception.ros.run import run


def main() -> int:
    return run("forecast", (FORECAST,))


if __name__ == "__main__":
    sys.exit(main())

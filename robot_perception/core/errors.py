"""The two ways in which data from outside is refused."""


class InputRejected(ValueError):
    """A message or a frame cannot be used; `reason` says why in one short sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class WeightsRejected(ValueError):
    """A checkpoint, vocabulary or map file cannot be trusted or does not fit."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

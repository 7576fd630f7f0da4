"""Why a request is turned away: each message is for the person who made it."""


class FullError(RuntimeError):
    """No room; `retry_after_s` says when there may be some, `reason` why: full, draining or rate."""

    def __init__(self, message: str, *, reason: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.reason, self.retry_after_s = reason, retry_after_s


class WrongKeyError(PermissionError):
    """Not, or no longer, the key that opens this; or a page that may not ask."""


class NotHereError(LookupError):
    """Nothing has this name, or no longer."""

"""Why a request is refused, in Runway's shape: {"error": text}."""

from typing import Any


class ApiError(Exception):
    """Answered with `status`.

    retry: whether the same request may succeed later; clients send 409 and 429 again unless this is false.
    """

    def __init__(self, status: int, message: str, *, retry: bool = False, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry, self.retry_after_s = status, retry, retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        after = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return {"x-should-retry": str(self.retry).lower(), **after}


def not_found(what: str) -> ApiError:
    return ApiError(404, f"There is no {what} of this id, or no longer.")


def issues_of(errors: list[Any]) -> list[dict[str, Any]]:
    """What is wrong where, of pydantic's errors; never the value itself, which may be long or secret."""
    return [{"path": list(one["loc"]), "message": one["msg"], "code": one["type"]} for one in errors]

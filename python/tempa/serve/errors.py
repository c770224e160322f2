"""Errors as OpenAI's clients expect them."""

from __future__ import annotations

from typing import Any

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What a request is answered with when it cannot be served.

    Args:
        status: Of the HTTP response.
        message: For the user.
        param: The field that is wrong.
        code: A word that programs look for.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        """The JSON that is sent.

        >>> ApiError(400, "n must be positive", param="n").body["error"]["type"]
        'invalid_request_error'
        """
        kind = "server_error" if self.status >= 500 else _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """When to come back, or how to identify oneself."""
        if self.status in (429, 503):
            return {"retry-after": "1"}
        return {"www-authenticate": "Bearer"} if self.status == 401 else {}

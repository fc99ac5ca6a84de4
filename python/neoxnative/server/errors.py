"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse

from .._core import NumericalError

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """Ends a request with a status and a message.

    param: the field of the request that is at fault
    code: a word for programs, such as "model_not_found"
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def of_request(error: Exception, fields: Collection[str] = ()) -> ApiError:
    """What the engine said against a request; the field that its message begins with is to blame."""
    if isinstance(error, ApiError):
        return error
    message = "; ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
    if isinstance(error, ValueError | TypeError | NotImplementedError):
        word = message.removeprefix("the ").split(maxsplit=1)[0].strip(":,").removesuffix("'s")
        code = "context_length_exceeded" if "max_model_len" in message else None
        return ApiError(400, message, param=word if word in fields else None, code=code)
    if isinstance(error, NumericalError):
        return ApiError(500, message, code="numerical_error")
    return ApiError(500, message)


def of_validation(error: RequestValidationError) -> ApiError:
    """The first thing that a body was refused for."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"][1:]]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][1]}")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{place[-1]} is not a field of this request", param=place[-1], code="unknown_field")
    message = first["msg"].removeprefix("Value error, ")
    found = "" if first["type"] in ("missing", "value_error") else f", found {_shortened(first['input'])}"
    return ApiError(400, f"{'.'.join(place) or 'the body'}: {message}{found}", param=place[0] if place else None)


def of_status(status: int, detail: object) -> ApiError:
    return ApiError(status, str(detail or HTTPStatus(status).phrase))


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""The endpoints, as an ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route

from .. import __version__
from ..chat_templates import special_tokens
from ..engine import Engine
from .chat import chat
from .completions import complete
from .errors import ApiError, of_request, of_status, of_validation
from .guards import BodyLimit, KeyCheck, StatusCount
from .options import ServerOptions
from .page import page
from .protocol import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from .service import Service
from .streaming import ClientLeft, left_response


def create_app(engine: Engine, options: ServerOptions | None = None, *, model: str | None = None) -> FastAPI:
    """An application that serves `engine`, for any ASGI server with one process. Its `state.service` is the Service.

    options: of which the application heeds all but host, port, ssl_* and uvicorn_log_level
    model: the model's name where options.served_model_name has none; None = its folder
    """
    options = options or ServerOptions()
    service = Service(engine, options, model or engine.info.model)
    app = FastAPI(title="neoxnative", version=__version__)
    app.state.service = service
    _add_generation(app, service)
    _add_tokenizer(app, service)
    _add_state(app, service)
    _add_errors(app)
    app.add_middleware(BodyLimit, limit=options.max_request_bytes)
    app.add_middleware(KeyCheck, keys=options.api_key)
    if options.allowed_origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(options.allowed_origins), allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(StatusCount, metrics=service.metrics, paths={route.path for route in app.routes if isinstance(route, Route)})
    return app


def _add_generation(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionBody, request: Request) -> Response:
        return await complete(service, body, request.receive)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        return await chat(service, body, request.receive)


def _add_tokenizer(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        service.check_model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "expected prompt or messages, and not both", param="prompt")
        if body.messages is not None:
            special = bool(body.add_special_tokens)
            prompt = await service.encode_chat(body.messages, add_generation_prompt=body.add_generation_prompt, add_special_tokens=special)
            ids = prompt.ids.tolist()
        else:
            ids = await service.encode(body.prompt or "", add_special_tokens=body.add_special_tokens is not False)
        names = [service.texts.name(token) for token in ids] if body.return_token_strs else None
        return {"count": len(ids), "max_model_len": service.engine.info.max_model_len, "tokens": ids, "token_strs": names}

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, Any]:
        service.check_model(body.model)
        tokenizer, vocab = service.engine.tokenizer, service.engine.info.vocab
        if tokenizer is None:
            raise ApiError(400, f"{service.names[0]} has no tokenizer")
        wrong = next((token for token in body.tokens if not 0 <= token < vocab), None)
        if wrong is not None:
            raise ApiError(400, f"tokens holds {wrong}, expected ids in [0, {vocab})", param="tokens")
        return {"prompt": tokenizer.decode(body.tokens)}

    @app.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, Any]:
        tokenizer, template = service.engine.tokenizer, service.chat_template
        if tokenizer is None:
            raise ApiError(404, f"{service.names[0]} has no tokenizer")
        about = {"tokenizer_class": "tokenizers", "vocab_size": len(tokenizer), "max_model_len": service.engine.info.max_model_len}
        return about | special_tokens(service.folder) | {"chat_template": template.source if template else None}


def _add_state(app: FastAPI, service: Service) -> None:
    def described(name: str) -> dict[str, Any]:
        about = {"id": name, "object": "model", "created": service.created, "owned_by": "neoxnative"}
        return about | {"root": service.engine.info.model, "max_model_len": service.engine.info.max_model_len}

    whole_page = page()

    @app.get("/", include_in_schema=False, response_model=None)
    async def root() -> Response:
        return whole_page

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [described(name) for name in service.names]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return described(name)

    @app.get("/health")
    @app.get("/ping")
    async def health() -> dict[str, Any]:
        service.check_alive()
        return {}

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_errors(app: FastAPI) -> None:
    def answered(make: Callable[[Any], Response]) -> Callable[[Request, Any], Awaitable[Response]]:
        async def handler(_: Request, error: Any) -> Response:
            return make(error)

        return handler

    app.add_exception_handler(ApiError, answered(ApiError.response))
    app.add_exception_handler(RequestValidationError, answered(lambda error: of_validation(error).response()))
    app.add_exception_handler(HTTPException, answered(lambda error: of_status(error.status_code, error.detail).response()))
    app.add_exception_handler(ClientLeft, answered(lambda _: left_response()))
    app.add_exception_handler(Exception, answered(lambda error: of_request(error).response()))

"""What a server is told besides its engine's options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptions:
    """How a server listens, whom it lets in, and how much it takes on.

    host: address to listen on; only this machine can reach the default
    port: 0 = any free one, which is printed
    api_key: clients have to send one of these as "Authorization: Bearer KEY"; none = the environment's NEOXNATIVE_API_KEY, else open to all
    served_model_name: the model's names in requests and answers; none = what the model was opened by
    chat_template: dolly, redpajama-chat, open-assistant, stablelm-tuned, or a file in jinja; None = the tokenizer's own
    max_queued_requests: sequences that may wait besides max_num_seqs that run; one more is answered 429
    max_request_bytes: of a request's body; a longer one is answered 413
    request_timeout: seconds that a request may take, its answer's way to the client included; 0 = any time. A request may ask for less
    allowed_origins: web pages of these origins may call the server (CORS), * = all; none = none
    ssl_certfile: for https, a certificate in PEM
    ssl_keyfile: its key
    uvicorn_log_level: critical, error, warning, info (each request) or debug
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: Sequence[str] = ()
    served_model_name: Sequence[str] = ()
    chat_template: str | None = None
    max_queued_requests: int = 1024
    max_request_bytes: int = 8 * 2**20
    request_timeout: float = 600.0
    allowed_origins: Sequence[str] = ()
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    uvicorn_log_level: str = "info"

    def __post_init__(self) -> None:
        lowest = {"port": 0, "max_queued_requests": 0, "max_request_bytes": 1, "request_timeout": 0}
        for name, least in lowest.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if self.port > 65535:
            raise ValueError(f"port is {self.port}, expected 0 to 65535")
        if any(not key for key in self.api_key):
            raise ValueError("api_key is empty, expected at least one character")

"""`neoxnative serve`: uvicorn around the application, and its way from the first signal to the end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from .. import _core
from ..engine import Engine
from .app import create_app
from .gate import Gate
from .options import ServerOptions

_LOOK = 0.25  # seconds between two looks at whether the engine still lives
_GPU_STEP = 1024  # tokens in a step: who reads one token after the other waits no longer than such a step takes


def serve(engine_options: dict[str, Any], options: ServerOptions, *, mpi: bool) -> int:
    """Serves until a signal, and returns the exit code: 0 after a signal, 1 after the engine has failed.

    mpi: this is one of the processes that mpirun started; rank 0 listens, the others follow it
    """
    comm = _world() if mpi else None
    listening = comm is None or comm.Get_rank() == 0
    listener = _bind(options) if listening else None
    if engine_options.get("max_num_batched_tokens") is None and engine_options.get("device") != "cpu" and _core.gpu_count() > 0:
        engine_options = engine_options | {"max_num_batched_tokens": _GPU_STEP}
    engine = Engine(**engine_options, comm=comm)
    if listener is None:
        for sig in (signal.SIGINT, signal.SIGTERM):  # rank 0's: it lets go of the others once it has finished
            signal.signal(sig, signal.SIG_IGN)
        engine.follow()
        return 0
    for warning in engine.info.warnings:
        print(f"neoxnative: warning: {warning}", file=sys.stderr)
    try:
        return _run(engine, options, listener, str(engine_options.get("model") or Path(engine.info.model).name))
    finally:
        listener.close()
        if engine.driver.error is None:
            engine.release()


def _world() -> Any:
    try:
        from mpi4py import MPI
    except ImportError:
        raise ImportError('--mpi needs mpi4py: pip install "neoxnative[mpi]"') from None
    return MPI.COMM_WORLD


def _bind(options: ServerOptions) -> socket.socket:
    """Before the model is loaded, so that a port in use is told at once. Nobody can connect before uvicorn listens."""
    listener = socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
    except OSError as error:
        raise RuntimeError(f"cannot listen on {options.host} port {options.port}: {error.strerror}") from None
    return listener


def _run(engine: Engine, options: ServerOptions, listener: socket.socket, model: str) -> int:
    app = create_app(engine, options, model=model)
    config = uvicorn.Config(
        app,
        log_level=options.uvicorn_log_level,
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
        server_header=False,
        lifespan="off",
        backlog=2048,
    )
    host = f"[{options.host}]" if ":" in options.host else options.host
    url = f"http{'s' * config.is_ssl}://{host}:{listener.getsockname()[1]}"
    server = _Server(config, engine, app.state.service.gate, f"serving {app.state.service.names[0]} at {url} (process {os.getpid()})")
    server.run(sockets=[listener])
    return int(engine.driver.error is not None)


class _Server(uvicorn.Server):
    """SIGTERM and the first SIGINT let running requests finish, while new ones get 503; a second SIGINT ends the process at once."""

    def __init__(self, config: uvicorn.Config, engine: Engine, gate: Gate, greeting: str) -> None:
        super().__init__(config)
        self._engine = engine
        self._gate = gate
        self._greeting = greeting
        self._loop: asyncio.AbstractEventLoop | None = None
        self._interrupted = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.create_task(self._drain())
        print(f"neoxnative: {self._greeting}", file=sys.stderr, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGINT and self._interrupted:
            os._exit(130)
        self._interrupted = self._interrupted or sig == signal.SIGINT
        self._gate.close("the server is shutting down")
        if self._loop is None:  # before it serves
            self.should_exit = True

    async def _drain(self) -> None:
        """Ends the server once the gate is closed and empty, or the engine has failed."""
        while self._gate.closed is None:
            await asyncio.sleep(_LOOK)
            if self._engine.driver.error is not None:
                print(f"neoxnative: error: the engine has failed: {self._engine.driver.error}", file=sys.stderr, flush=True)
                self._gate.close("the engine has failed")
        await self._gate.emptied()
        self.should_exit = True

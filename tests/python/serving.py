# SPDX-License-Identifier: Apache-2.0
"""`neoxnative serve` as a process of its own, and a small HTTP client that can do what well-behaved ones do not."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field

START = 120  # seconds until a server has to listen


class Server:
    """A running server. Leaving the block ends it, by SIGKILL if it does not go by itself.

    launch: makes the command of the server's, where it is started by another program
    """

    def __init__(self, *arguments, launch=lambda *command: command, env=None):
        command = launch(sys.executable, "-m", "neoxnative", "serve", "--port", "0", "--uvicorn-log-level", "warning", *arguments)
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
        self.log = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listening.wait(START) or not self.url:
            self.process.kill()
            raise RuntimeError("the server did not start:\n" + "".join(self.log))
        self.port = int(self.url.rsplit(":", 1)[1])

    def _read(self):
        self.url = None
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"serving \S+ at (http\S+) \(process (\d+)\)", line)
            if found:
                self.url, self.pid = found[1], int(found[2])
                self._listening.set()
        self._listening.set()  # it has ended

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self._reader.join(5)

    def resident(self):
        """Bytes of memory that the process has now."""
        with open(f"/proc/{self.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))

    async def metrics(self):
        """{name without prefix: sum over labels}"""
        found = {}
        for line in (await get(self.port, "/metrics")).body.decode().splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith("neoxnative:"):
                name = name.removeprefix("neoxnative:").partition("{")[0]
                found[name] = found.get(name, 0) + float(value)
        return found


@dataclass
class Reply:
    status: int
    headers: dict
    body: bytes = b""
    events: list = field(default_factory=list)  # of a stream, without [DONE]
    done: bool = False  # the stream came to its end

    def json(self):
        return json.loads(self.body)

    def text(self, index=0):
        choices = [c for event in self.events for c in event["choices"]] if self.events else self.json()["choices"]
        return "".join(choice["text"] for choice in choices if choice["index"] == index)


async def get(port, path, **headers):
    return await _exchange(port, "GET", path, b"", headers)


async def post(port, path, body, *, headers=None, **how):
    """body: bytes, or something for JSON. how: see _exchange."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await _exchange(port, "POST", path, data, headers or {}, **how)


async def complete(port, *, headers=None, leave_after=None, pause=0.0, **body):
    return await post(port, "/v1/completions", body, headers=headers, leave_after=leave_after, pause=pause)


async def _exchange(port, method, path, data, headers, *, leave_after=None, pause=0.0):
    """leave_after: closes the connection after this many events, or at once after asking (0); the reply is what has come.

    pause: seconds between two events that are read
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        given = {"Host": "test", "Connection": "close", "Content-Type": "application/json", "Content-Length": len(data), **headers}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + data)
        await writer.drain()
        if leave_after == 0:
            return None
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        reply = Reply(int(head[0].split()[1]), {name.lower(): value for name, value in pairs})
        if reply.headers.get("content-type", "").startswith("text/event-stream"):
            await _read_events(reader, reply, leave_after, pause)
        else:
            reply.body = await reader.readexactly(int(reply.headers["content-length"]))
        return reply
    finally:
        writer.close()


async def _read_events(reader, reply, leave_after, pause):
    rest = b""
    while size := int(await reader.readuntil(b"\n"), 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        *whole, rest = rest.split(b"\n\n")
        for event in whole:
            if event == b"data: [DONE]":
                reply.done = True
                continue
            reply.events.append(json.loads(event.removeprefix(b"data: ")))
            if leave_after is not None and len(reply.events) >= leave_after:
                return
            if pause:
                await asyncio.sleep(pause)

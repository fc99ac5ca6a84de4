"""A load of completions on a server, and how fast they come, as its clients see it. `neoxnative bench -h` says what is counted how."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from .tokenizer import AnyTokenizer

_WORD = re.compile(rb" [a-z]{2,}")


@dataclass(frozen=True)
class Job:
    """A request: a prompt as a text or ids, how many tokens that is, and how many new ones are wanted."""

    prompt: str | list[int]
    input_length: int
    output_length: int


@dataclass
class Timing:
    """What came of a request. Times are seconds since the load began.

    due: when it had to be sent
    arrivals: of each event with text; of the answer, where it is no stream
    end: of its answer
    """

    due: float
    arrivals: list[float] = field(default_factory=list)
    end: float = math.nan
    input_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None

    @property
    def first(self) -> float:
        return self.arrivals[0] - self.due

    @property
    def per_token(self) -> float:
        return (self.arrivals[-1] - self.arrivals[0]) / (self.output_tokens - 1)


def read_lengths(path: str | Path, count: int | None) -> list[tuple[int, int]]:
    """(tokens of the prompt, new tokens) of each request in a JSON file with input_lengths and output_lengths, or of the first `count`."""
    lengths = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        pairs = list(zip(lengths["input_lengths"], lengths["output_lengths"], strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected input_lengths and output_lengths, two lists of one length; found {error}") from None
    if count is not None and count > len(pairs):
        raise ValueError(f"{path} has {len(pairs)} requests, fewer than {count}")
    return pairs[:count]


def make_jobs(lengths: Sequence[tuple[int, int]], *, vocab: int, tokenizer: AnyTokenizer | None = None, seed: int = 0) -> list[Job]:
    """Random prompts: ids from 1 up to `vocab`, or texts of so many of the tokenizer's words. ValueError where it does not read them so."""
    rng = random.Random(seed)
    if tokenizer is None:
        return [Job([rng.randrange(1, vocab) for _ in range(prompt)], prompt, new) for prompt, new in lengths]
    words = [token for token, data in enumerate(tokenizer.bytes_table()) if _WORD.fullmatch(data)]
    jobs = []
    for prompt, new in lengths:
        ids = rng.choices(words, k=prompt) if words else []
        text = tokenizer.decode(ids)
        found = len(tokenizer.encode(text, add_special_tokens=False))
        if found != prompt:
            raise ValueError(f"the tokenizer reads a text of {prompt} of its words as {found} tokens; leave --tokenizer out to send ids")
        jobs.append(Job(text, prompt, new))
    return jobs


class Client:
    """A client of one server, for `async with`.

    url: with or without /v1 at its end
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def __aenter__(self) -> Client:
        connector, unlimited = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(connector=connector, timeout=unlimited, headers=self._headers, read_bufsize=2**20)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str) -> dict[str, Any] | None:
        """JSON of `path`, None where the server has none there. RuntimeError where it cannot be reached, or lets nobody in."""
        try:
            async with self._session.get(self.url + path) as reply:
                if reply.status in (401, 403):
                    raise RuntimeError(f"{self.url}{path} answered {reply.status}: {await _message(reply)}")
                found = await reply.json() if reply.status == 200 else None
                return found if isinstance(found, dict) else None
        except (aiohttp.ClientError, OSError) as error:
            raise RuntimeError(f"{self.url} cannot be reached: {error}") from None

    async def run(
        self, jobs: Sequence[Job], *, stream: bool = True, request_rate: float = math.inf, body: dict[str, Any] | None = None, seed: int = 0
    ) -> list[Timing]:
        """Sends every job when it is due, and waits for all.

        request_rate: arrivals a second, a Poisson process; inf = all at once
        body: fields of each request besides prompt, max_tokens and stream; None leaves a field out
        """
        rng, due = random.Random(seed), 0.0
        timings = []
        for _ in jobs:
            timings.append(Timing(due))
            due += rng.expovariate(request_rate) if math.isfinite(request_rate) else 0.0
        fields: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "stream": stream}
        fields |= ({"stream_options": {"include_usage": True}} if stream else {}) | (body or {})
        fields = {name: value for name, value in fields.items() if value is not None}
        start = time.perf_counter()
        await asyncio.gather(*(self._one(job, timing, fields, start) for job, timing in zip(jobs, timings)))
        return timings

    async def _one(self, job: Job, timing: Timing, fields: dict[str, Any], start: float) -> None:
        await asyncio.sleep(max(timing.due - (time.perf_counter() - start), 0))
        body = {"prompt": job.prompt, "max_tokens": job.output_length, **fields}
        try:
            async with self._session.post(f"{self.url}/v1/completions", json=body) as reply:
                if reply.status != 200:
                    raise RuntimeError(f"status {reply.status}: {await _message(reply)}")
                await (_read_stream if fields.get("stream") else _read_whole)(reply, job, timing, start)
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:
            timing.error = str(error) or type(error).__name__
        timing.end = time.perf_counter() - start


async def _message(reply: aiohttp.ClientResponse) -> str:
    text = await reply.text()
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]


async def _read_whole(reply: aiohttp.ClientResponse, job: Job, timing: Timing, start: float) -> None:
    answer = await reply.json()
    timing.arrivals.append(time.perf_counter() - start)
    _count(timing, job, answer.get("usage"), answer["choices"][0].get("finish_reason"))


async def _read_stream(reply: aiohttp.ClientResponse, job: Job, timing: Timing, start: float) -> None:
    usage, reason = None, None
    async for line in reply.content:
        now = time.perf_counter() - start
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or data == b"[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise RuntimeError(str(event["error"].get("message", event["error"])))
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            reason = choice.get("finish_reason") or reason
            if choice["text"]:
                timing.arrivals.append(now)
    if reason is None:
        raise RuntimeError("the stream was cut off before the answer had ended")
    _count(timing, job, usage, reason)


def _count(timing: Timing, job: Job, usage: dict[str, Any] | None, reason: str | None) -> None:
    if usage is None and reason != "length":
        raise RuntimeError("the server does not tell how many tokens it gave, and the request did not end by its length")
    timing.input_tokens = usage["prompt_tokens"] if usage else job.input_length
    timing.output_tokens = usage["completion_tokens"] if usage else job.output_length


def make_report(timings: Sequence[Timing], **settings: Any) -> dict[str, Any]:
    """What a load gave, as JSON takes it: times in seconds. RuntimeError where every request failed.

    settings: what it was run with, taken along
    """
    good = [timing for timing in timings if timing.error is None]
    errors = [timing.error for timing in timings if timing.error is not None]
    if not good:
        raise RuntimeError(f"all of {len(timings)} requests failed, the first: {errors[0]}" if errors else "there are no requests")
    duration = max(timing.end for timing in good)
    tokens = sum(timing.output_tokens for timing in good)
    gaps = [b - a for timing in good for a, b in zip(timing.arrivals, timing.arrivals[1:])]
    return {
        **settings,
        "requests": len(timings),
        "failed": len(errors),
        "errors": sorted(set(errors)),
        "seconds": duration,
        "input_tokens": sum(timing.input_tokens for timing in good),
        "output_tokens": tokens,
        "requests_per_second": len(good) / duration,
        "output_tokens_per_second": tokens / duration,
        "time_to_first_token": _spread([timing.first for timing in good if timing.arrivals and settings.get("stream", True)]),
        "inter_token_latency": _spread(gaps),
        "time_per_output_token": _spread([timing.per_token for timing in good if len(timing.arrivals) > 1 and timing.output_tokens > 1]),
        "request_time": _spread([timing.end - timing.due for timing in good]),
        "each": [_described(timing) for timing in timings],
    }


def _described(timing: Timing) -> dict[str, Any]:
    described = {name: value for name, value in asdict(timing).items() if name != "arrivals"}
    return described | {"first": timing.arrivals[0] if timing.arrivals else None}


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    shares = np.percentile(values, [50, 95, 99])
    return {"mean": float(np.mean(values)), **{f"p{p}": float(share) for p, share in zip((50, 95, 99), shares)}, "max": max(values)}


def format_report(report: dict[str, Any]) -> str:
    """The report as lines for people."""
    how = "all at once" if report["request_rate"] is None else f"{report['request_rate']:g} a second, Poisson"
    rows = [
        ("server", f"{report['url']}, {report['model']}"),
        ("load", f"{report['requests']} requests, {how}, {'streamed' if report['stream'] else 'not streamed'}; {report['failed']} failed"),
        ("tokens", f"{report['input_tokens']:,} of prompts, {report['output_tokens']:,} new, in {report['seconds']:.1f} s"),
        ("throughput", f"{report['output_tokens_per_second']:.1f} new tokens/s, {report['requests_per_second']:.2f} requests/s"),
    ]
    rows += [("failed", error) for error in report["errors"][:3]]
    lines = [f"{name:<13}{text}" for name, text in rows]
    columns = ("mean", "p50", "p95", "p99", "max")
    lines += ["", f"{'milliseconds':<24}" + "".join(f"{name:>11}" for name in columns)]
    named = {"time_to_first_token": "first token", "inter_token_latency": "between tokens"}
    named |= {"time_per_output_token": "per output token", "request_time": "request"}
    for key, name in named.items():
        if report[key] is not None:
            lines.append(f"{name:<24}" + "".join(f"{report[key][column] * 1e3:>11.1f}" for column in columns))
    return "\n".join(lines)


async def measure_server(
    url: str,
    lengths: Sequence[tuple[int, int]],
    *,
    model: str | None,
    api_key: str | None,
    tokenizer: AnyTokenizer | None,
    vocab: int | None,
    request_rate: float | None,
    stream: bool,
    body: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """The report of one load. RuntimeError where the server cannot be reached or fails every request.

    model: its name; None = the first that the server has
    tokenizer: prompts are texts; None = they are ids below `vocab`, or where that is None below what the server's /tokenizer_info says
    request_rate: None = all at once
    """
    async with Client(url, api_key) as client:
        models = (await client.get("/v1/models") or {}).get("data") or []
        model = model or (models[0]["id"] if models else None)
        if tokenizer is None and vocab is None:
            vocab = (await client.get("/tokenizer_info") or {}).get("vocab_size")
            if vocab is None:
                raise ValueError(f"{client.url} does not tell its vocabulary's size: expected --vocab-size, or --tokenizer to send texts")
        jobs = make_jobs(lengths, vocab=vocab or 0, tokenizer=tokenizer, seed=seed)
        rate = math.inf if request_rate is None else request_rate
        timings = await client.run(jobs, stream=stream, request_rate=rate, body={"model": model, **body}, seed=seed)
    kind = "ids" if tokenizer is None else "text"
    settings = {"url": client.url, "model": model, "stream": stream, "request_rate": request_rate, "prompts": kind, "seed": seed}
    return make_report(timings, **settings)

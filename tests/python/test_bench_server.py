# SPDX-License-Identifier: Apache-2.0
"""bench --url: what it sends, what it counts, and what it says of servers that fail."""

import asyncio
import json
import subprocess
import sys
import threading

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
web = pytest.importorskip("aiohttp.web")

from example import ROOT  # noqa: E402
from neoxnative import Engine  # noqa: E402
from neoxnative.bench_server import Client, Timing, make_jobs, make_report, read_lengths  # noqa: E402
from neoxnative.cli import main  # noqa: E402
from neoxnative.engine import DEMO_MODEL  # noqa: E402
from serving import Server  # noqa: E402

KEY = "a key for these tests"


@pytest.fixture(scope="module")
def server():
    with Server("--api-key", KEY) as running:
        yield running


class StandIn:
    """A server whose answers are what `handle` makes of a body, kept in `bodies`."""

    def __init__(self, handle):
        self.bodies, self._handle = [], handle

    async def _complete(self, request):
        body = await request.json()
        self.bodies.append(body)
        return await self._handle(request, body)

    async def _start(self):
        app = web.Application()
        app.router.add_post("/v1/completions", self._complete)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://{}:{}".format(*site._server.sockets[0].getsockname()[:2])
        return runner

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._runner = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def as_llama_cpp(request, body):
    """A stream without usage, with other line ends, comments, and an event without text at its end."""
    reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await reply.prepare(request)
    await reply.write(b": ping\r\n\r\n")
    for text, reason in [("a", None), (" b", None), (" c", None), ("", "length")]:
        event = {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}
        await reply.write(b"data: " + json.dumps(event).encode() + b"\r\n\r\n")
    await reply.write(b"data: [DONE]\r\n\r\n")
    return reply


async def cut_off(request, body):
    reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await reply.prepare(request)
    await reply.write(b'data: {"choices": [{"text": "a", "finish_reason": null}]}\n\n')
    return reply


async def without_counts(request, body):
    return web.json_response({"choices": [{"text": "a", "finish_reason": "stop"}]})


async def busy(request, body):
    return web.json_response({"error": {"message": "too many requests"}}, status=429)


def run(argv, capsys):
    code = main(["bench", *argv])
    return code, capsys.readouterr()


@pytest.mark.parametrize("stream", [True, False])
def test_a_load_is_counted_as_the_server_counts_it(server, tmp_path, capsys, stream):
    load, out = tmp_path / "load.json", tmp_path / "report.json"
    load.write_text(json.dumps({"input_lengths": [5, 40, 17, 9], "output_lengths": [3, 8, 1, 9]}))
    how = ["--url", server.url + "/v1/", "--api-key", KEY, "--load", str(load), "--requests", "3", "--json", str(out)]
    code, said = run([*how] + ([] if stream else ["--no-stream"]), capsys)
    report = json.loads(out.read_text())
    assert code == 0 and report["requests"] == 3 and report["failed"] == 0 and report["model"] == "classics-7m"
    assert report["output_tokens"] == 12 and report["input_tokens"] == 62
    assert [one["output_tokens"] for one in report["each"]] == [3, 8, 1]
    assert report["output_tokens_per_second"] == pytest.approx(12 / report["seconds"])
    assert (report["time_to_first_token"] is not None) is (report["inter_token_latency"] is not None) is stream
    assert "new tokens/s" in said.out and ("between tokens" in said.out) is stream


def test_json_without_a_file_prints_the_report_alone(server, capsys):
    how = ["--url", server.url, "--api-key", KEY, "--requests", "2", "--input-len", "4", "--output-len", "3", "--json"]
    code, said = run(how, capsys)
    assert code == 0 and json.loads(said.out)["output_tokens"] == 6


def test_texts_have_exactly_the_tokens_that_were_asked_for(server, capsys):
    tokenizer = Engine().tokenizer
    jobs = make_jobs([(1, 2), (33, 4)], vocab=0, tokenizer=tokenizer, seed=4)
    assert [len(tokenizer.encode(job.prompt, add_special_tokens=False)) for job in jobs] == [1, 33]
    how = ["--url", server.url, "--api-key", KEY, "--requests", "2", "--input-len", "33", "--tokenizer", str(DEMO_MODEL), "--json"]
    code, said = run(how, capsys)
    assert code == 0 and json.loads(said.out)["input_tokens"] == 2 * 34  # the model's tokenizer puts one in front


def test_a_load_is_the_same_for_every_server_with_a_seed():
    lengths = [(7, 2), (3, 5)]
    assert make_jobs(lengths, vocab=50, seed=3) == make_jobs(lengths, vocab=50, seed=3) != make_jobs(lengths, vocab=50, seed=4)
    assert all(0 < token < 50 for job in make_jobs(lengths, vocab=50) for token in job.prompt)


def test_a_stream_without_usage_is_counted_by_its_length():
    with StandIn(as_llama_cpp) as server:

        async def load():
            async with Client(server.url) as client:
                return await client.run(make_jobs([(4, 3)], vocab=9), body={"ignore_eos": None, "logit_bias": {"0": -100}})

        (timing,) = asyncio.run(load())
    assert timing.error is None and len(timing.arrivals) == 3 and (timing.input_tokens, timing.output_tokens) == (4, 3)
    (body,) = server.bodies
    assert "ignore_eos" not in body and body["logit_bias"] == {"0": -100} and body["temperature"] == 0 and body["max_tokens"] == 3


@pytest.mark.parametrize(
    ("handle", "stream", "message"),
    [
        (busy, True, "status 429: too many requests"),
        (cut_off, True, "the stream was cut off before the answer had ended"),
        (without_counts, False, "the server does not tell how many tokens it gave"),
    ],
)
def test_what_fails_is_told_and_never_counted(handle, stream, message, capsys):
    with StandIn(handle) as server:
        how = ["--url", server.url, "--requests", "2", "--vocab-size", "9"] + ([] if stream else ["--no-stream"])
        code, said = run(how, capsys)
    assert code == 1 and "all of 2 requests failed" in said.err and message in said.err


def test_some_that_fail_are_named_and_the_others_reported(server, tmp_path, capsys):
    load = tmp_path / "load.json"
    load.write_text(json.dumps({"input_lengths": [5, 100000], "output_lengths": [3, 8]}))
    code, said = run(["--url", server.url, "--api-key", KEY, "--load", str(load)], capsys)
    assert code == 1 and "1 failed" in said.out and "max_model_len" in said.out and "3 new" in said.out


def test_arrivals_are_a_poisson_process_of_the_rate(monkeypatch):
    async def at_once(self, job, timing, fields, start):
        timing.end = timing.due

    monkeypatch.setattr(Client, "_one", at_once)

    def due(rate, seed=0):
        timings = asyncio.run(Client("http://nowhere").run(make_jobs([(1, 1)] * 4000, vocab=9), request_rate=rate, seed=seed))
        return [timing.due for timing in timings]

    assert due(float("inf")) == [0.0] * 4000
    times = due(20.0)
    gaps = [b - a for a, b in zip(times, times[1:])]
    mean = sum(gaps) / len(gaps)
    assert times == due(20.0) != due(20.0, seed=1) and mean == pytest.approx(1 / 20, rel=0.06)
    assert sum(gap * gap for gap in gaps) / len(gaps) == pytest.approx(2 * mean * mean, rel=0.15)  # of an exponential distribution


def test_a_report_holds_percentiles_from_the_due_time_on():
    timings = [Timing(due=1.0, arrivals=[2.0, 2.5, 4.0], end=4.25, input_tokens=7, output_tokens=5), Timing(due=2.0, end=2.5, error="no")]
    report = make_report(timings, stream=True)
    assert report["failed"] == 1 and report["errors"] == ["no"] and report["output_tokens"] == 5
    assert report["time_to_first_token"]["p50"] == report["time_to_first_token"]["p99"] == 1.0
    assert report["inter_token_latency"]["p50"] == 1.0 and report["inter_token_latency"]["max"] == 1.5
    assert report["time_per_output_token"]["mean"] == 0.5 and report["request_time"]["mean"] == 3.25
    assert report["output_tokens_per_second"] == pytest.approx(5 / 4.25)


def test_reports_become_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    timings = [Timing(due=0.0, arrivals=[1.25, 1.5], end=2.0, input_tokens=7, output_tokens=246)]
    (tmp_path / "a.json").write_text(json.dumps(make_report(timings, stream=True, request_rate=None)))
    cell = {"batch": 3, "prompt": 71, "prefill_share_of_matmul": 0.5, "decode_share_of_read": 0.25}
    cell |= {"prefill_tokens_per_second": {"median": 1234.0}, "decode_tokens_per_second": {"median": 56.0}}
    (tmp_path / "b.json").write_text(json.dumps({"cells": [cell]}))

    def plot(*reports):
        command = [sys.executable, str(ROOT / "tools" / "plot_bench.py"), *reports, "--out", "out/picture.svg"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    for report, wanted in (("some & server=a.json", ["some &amp; server", "123", "1.2", "250"]), ("b.json", ["3 × 71", "1,234", "56"])):
        done = plot(report)
        assert done.returncode == 0, done.stderr
        picture = (tmp_path / "out" / "picture.svg").read_text()
        assert all(f">{text}<" in picture for text in wanted) and len(picture) < 60_000
    assert plot("a.json", "b.json").returncode == 2


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--requests", "3"], 2, "--requests needs --url"),
        (["--url", "http://127.0.0.1:9", "--batch", "4"], 2, "--batch does not go with --url"),
        (["--url", "http://127.0.0.1:9", "--dtype", "float16"], 2, "--dtype does not go with --url"),
        (["--url", "http://127.0.0.1:9", "--request-rate", "0"], 2, "'0' is not a number above 0"),
        (["--url", "http://127.0.0.1:9", "--extra-body", "[1]"], 2, "'[1]' is not a JSON object"),
        (["--url", "http://127.0.0.1:9"], 1, "http://127.0.0.1:9 cannot be reached"),
        (["--url", "http://127.0.0.1:9", "--load", "no/such/file"], 1, "no/such/file"),
    ],
)
def test_wrong_options_are_told(argv, code, message, capsys):
    try:
        found = main(["bench", *argv])
    except SystemExit as left:
        found = left.code
    assert found == code and message in capsys.readouterr().err


def test_a_key_that_is_not_known_is_told(server, capsys):
    code, said = run(["--url", server.url, "--api-key", "wrong"], capsys)
    assert code == 1 and "401" in said.err and "API key" in said.err


def test_a_file_of_lengths_has_to_hold_them(tmp_path):
    file = tmp_path / "load.json"
    file.write_text('{"input_lengths": [1, 2], "output_lengths": [1]}')
    with pytest.raises(ValueError, match="expected input_lengths and output_lengths"):
        read_lengths(file, None)
    file.write_text('{"input_lengths": [1, 2], "output_lengths": [1, 4]}')
    assert read_lengths(file, 1) == [(1, 1)]
    with pytest.raises(ValueError, match="has 2 requests, fewer than 3"):
        read_lengths(file, 3)

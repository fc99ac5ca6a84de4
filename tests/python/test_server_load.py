# SPDX-License-Identifier: Apache-2.0
"""The server under pressure: many clients, rude ones, slow ones, and its own end. tools/load_server.py does the same at length."""

import asyncio
import signal
import time

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from load import Load, emptied  # noqa: E402
from serving import Server, complete, get  # noqa: E402

LONG = {"prompt": "It was a dark and stormy night", "temperature": 0, "ignore_eos": True}
FEW_PAGES = ("--kv-cache-memory", str(16 * 2**20), "--max-num-seqs", "24")  # some of the load has to wait, and some to go back


def test_a_load_with_rude_clients_disturbs_no_good_one_and_leaves_no_page_behind():
    with Server(*FEW_PAGES) as server:

        async def run():
            load = Load(server.port, at_once=32, kinds=12)
            await load.alone()
            for _ in range(2):
                await load.round(60)
            return load, await emptied(server)

        load, metrics = asyncio.run(run())
        assert load.wrong == []
        assert sum(load.outcomes.values()) == 120 and min(load.outcomes.values()) > 3
        assert metrics["kv_cache_blocks_used"] == metrics["num_sequences_admitted"] == metrics["num_requests_waiting"] == 0


def test_a_client_that_goes_away_takes_its_request_along():
    with Server() as server:

        async def run():
            for stream in (True, False):
                ask = asyncio.create_task(complete(server.port, max_tokens=900, stream=stream, **LONG))
                while not (await server.metrics())["kv_cache_blocks_used"]:
                    await asyncio.sleep(0.01)
                ask.cancel()
                await asyncio.gather(ask, return_exceptions=True)
                metrics = await emptied(server)
                assert metrics["kv_cache_blocks_used"] == 0
            return metrics

        assert asyncio.run(run())["generation_tokens_total"] < 1500


def test_a_full_queue_is_told_to_come_again():
    with Server("--max-num-seqs", "1", "--max-queued-requests", "2") as server:

        async def run():
            asked = [asyncio.create_task(complete(server.port, max_tokens=300, **LONG)) for _ in range(3)]
            while (await server.metrics())["num_sequences_admitted"] < 3:
                await asyncio.sleep(0.01)
            refused = await complete(server.port, max_tokens=1, **LONG)
            never = await complete(server.port, max_tokens=1, n=4, **LONG)
            return refused, never, await asyncio.gather(*asked)

        refused, never, answers = asyncio.run(run())
        assert refused.status == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert never.status == 400 and "4 sequences" in never.json()["error"]["message"]
        assert [answer.status for answer in answers] == [200, 200, 200]


def test_a_slow_reader_does_not_stall_the_others():
    with Server() as server:

        async def run():
            how = {"max_tokens": 800, "stream": True, "return_token_ids": True, "logprobs": 20, **LONG}  # more than a socket holds
            slow = asyncio.create_task(complete(server.port, pause=0.5, **how))
            await asyncio.sleep(0.5)
            start = time.monotonic()
            others = await asyncio.gather(*(complete(server.port, **LONG, max_tokens=30) for _ in range(4)))
            took = time.monotonic() - start
            assert not slow.done()
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)
            return others, took

        others, took = asyncio.run(run())
        assert all(reply.status == 200 for reply in others)
        assert took < 20  # the slow one alone takes 400 s


def test_sigterm_lets_running_requests_finish_and_refuses_new_ones():
    with Server() as server:

        async def run():
            running = [asyncio.create_task(complete(server.port, max_tokens=500, stream=stream, **LONG)) for stream in (True, False)]
            while (await server.metrics())["num_requests_running"] < 2:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            while (await get(server.port, "/health")).status == 200:
                await asyncio.sleep(0.01)
            new = await complete(server.port, max_tokens=1, **LONG)
            return new, await asyncio.gather(*running)

        new, (streamed, whole) = asyncio.run(run())
        assert new.status == 503 and "shutting down" in new.json()["error"]["message"]
        assert whole.status == 200 and streamed.done and streamed.text() == whole.text()
        assert server.process.wait(20) == 0


def test_sigint_twice_ends_it_at_once():
    with Server() as server:

        async def run():
            ask = asyncio.create_task(complete(server.port, max_tokens=1000, n=8, stream=True, **LONG))
            while not (await server.metrics())["num_requests_running"]:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGINT)
            while (await get(server.port, "/health")).status == 200:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGINT)
            return await asyncio.gather(ask, return_exceptions=True)

        broken = asyncio.run(run())[0]
        assert isinstance(broken, Exception)
        assert server.process.wait(5) == 130


def test_kill_9_breaks_the_connections_and_a_new_server_takes_the_port():
    with Server() as server:

        async def run():
            asked = [asyncio.create_task(complete(server.port, max_tokens=900, stream=i % 2 == 0, **LONG)) for i in range(6)]
            while not (await server.metrics())["num_requests_running"]:
                await asyncio.sleep(0.01)
            server.process.kill()
            return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)

        assert all(isinstance(broken, Exception) for broken in asyncio.run(run()))
        port = str(server.port)
    with Server("--port", port) as again:
        assert asyncio.run(complete(again.port, max_tokens=2, **LONG)).status == 200


def test_a_port_in_use_is_told_before_the_model_is_loaded(run_cli):
    with Server() as server:
        tried = run_cli("serve", "--port", str(server.port), "no/such/model", check=False)
        assert tried.returncode == 1 and f"port {server.port}" in tried.stderr

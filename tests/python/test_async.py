# SPDX-License-Identifier: Apache-2.0
"""The engine on asyncio: the same outputs as its calls that wait, beside them and by themselves."""

import asyncio
import threading
import time

import pytest

from models import Model, prompt
from neoxnative import Engine, SamplingParams

MODEL = Model()
PROMPTS = [prompt(seed, 5 + 7 * seed, MODEL.vocab).tolist() for seed in range(4)]
PARAMS = SamplingParams(max_tokens=12, seed=4, ignore_eos=True)


@pytest.fixture(scope="module")
def engine(folder_of):
    return Engine(folder_of(MODEL))


def ids(outputs):
    return [[one.token_ids for one in output.outputs] for output in outputs]


def settled(engine):
    """The engine's counts once it has dropped what was cancelled."""
    for _ in range(500):
        if engine.stats.requests == engine.stats.finished and engine.stats.blocks_used == 0:
            break
        time.sleep(0.01)
    return engine.stats


def test_agenerate_gives_what_generate_gives(engine):
    params = [SamplingParams(max_tokens=3 + i, n=1 + i % 2, seed=i) for i in range(4)]
    assert ids(asyncio.run(engine.agenerate(PROMPTS, params))) == ids(engine.generate(PROMPTS, params))


def test_astream_gives_what_stream_gives_and_many_share_the_steps(engine):
    async def collect(one):
        return [token async for delta in engine.astream(one, PARAMS) for token in delta.token_ids]

    async def all_of_them():
        return await asyncio.gather(*map(collect, PROMPTS))

    wanted = [[token for delta in engine.stream(one, PARAMS) for token in delta.token_ids] for one in PROMPTS]
    before = engine.stats.steps
    assert asyncio.run(all_of_them()) == wanted
    assert engine.stats.steps - before < 3 * PARAMS.max_tokens


def test_the_loop_goes_on_while_the_engine_works(engine):
    async def run():
        ticks = 0
        task = asyncio.create_task(engine.agenerate(PROMPTS[0], SamplingParams(max_tokens=200, ignore_eos=True)))
        while not task.done():
            await asyncio.sleep(0)
            ticks += 1
        return ticks

    assert asyncio.run(run()) > 20


def test_leaving_or_cancelling_gives_the_pages_back(engine):
    long = SamplingParams(max_tokens=1000, ignore_eos=True)

    async def leave():
        stream = engine.astream(PROMPTS[0], long)
        await anext(stream)
        await stream.aclose()
        task = asyncio.create_task(engine.agenerate(PROMPTS, long))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = engine.stats.tokens_generated
    asyncio.run(leave())
    after = settled(engine)
    assert after.blocks_used == 0 and after.requests == after.finished
    assert after.tokens_generated - before < 4000


def test_a_refused_prompt_raises_and_takes_the_others_along(engine):
    with pytest.raises(ValueError, match="expected 0 to 130") as refused:
        asyncio.run(engine.agenerate([PROMPTS[0], [5000]], PARAMS))
    assert "in prompts[1]" in refused.value.__notes__
    assert settled(engine).blocks_used == 0


def test_a_request_whose_tokens_are_all_banned_raises(engine):
    banned = SamplingParams(allowed_token_ids=[5], bad_words=[[5]])
    with pytest.raises(ValueError, match="banned"):
        asyncio.run(engine.agenerate(PROMPTS[0], banned))

    async def stream():
        return [delta async for delta in engine.astream(PROMPTS[0], banned)]

    with pytest.raises(ValueError, match="banned"):
        asyncio.run(stream())


def test_several_loops_and_threads_share_one_engine(engine):
    wanted, got = ids(engine.generate(PROMPTS, PARAMS)), {}

    def work(number):
        got[number] = ids(engine.generate(PROMPTS, PARAMS) if number % 2 else asyncio.run(engine.agenerate(PROMPTS, PARAMS)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(got.values()) == [wanted] * 4


def test_no_thread_stays_once_nothing_is_open(engine):
    asyncio.run(engine.agenerate(PROMPTS, PARAMS))
    settled(engine)
    for _ in range(200):
        if not any(thread.name == "neoxnative-engine" for thread in threading.enumerate()):
            return
        time.sleep(0.01)
    pytest.fail("the driver's thread is still there")

# SPDX-License-Identifier: Apache-2.0
"""What goes wrong stays where it is: NaN in one request, threads, forks, Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import models
from models import Model
from neoxnative import Engine, NumericalError, SamplingParams

MODEL = Model(seed=4, max_positions=400)
BAD = 77  # a token whose embedding is NaN


def poisoned(tmp_path, name, rows=slice(None)):
    named = models.tensors(MODEL)
    named[name][rows] = np.nan
    return models.write(MODEL, tmp_path / "poisoned", named=named)


def clean_prompt(seed, length):
    ids = models.prompt(seed, length, MODEL.vocab)
    return np.where(ids == BAD, BAD + 1, ids)


def greedy(n=12, **more):
    return SamplingParams(max_tokens=n, temperature=0, ignore_eos=True, **more)


@pytest.mark.parametrize("ahead", [False, True])
def test_nan_fails_its_request_alone_names_the_layer_and_leaves_no_findable_pages(tmp_path, folder_of, ahead):
    engine = Engine(poisoned(tmp_path, "gpt_neox.embed_in.weight", BAD), async_scheduling=ahead)
    reference = Engine(folder_of(MODEL))
    good = [clean_prompt(seed, 40 + seed) for seed in range(4)]
    bad = clean_prompt(9, 64)
    bad[50] = BAD
    expected = [o.outputs[0] for o in reference.generate(good, greedy())]
    outputs = engine.generate([*good[:2], bad, *good[2:]], greedy())
    assert [outputs[i].outputs[0].token_ids for i in (0, 1, 3, 4)] == [e.token_ids for e in expected]
    failed = outputs[2].outputs[0]
    assert failed.finish_reason == "error"
    assert isinstance(failed.error, NumericalError)
    assert "the embedding" in str(failed.error)
    assert failed.token_ids == []
    cached = engine.stats.tokens_cached
    clean = bad.copy()
    clean[50] = BAD + 1  # the same first three pages
    assert engine.generate([clean], greedy())[0].outputs[0].token_ids == reference.generate([clean], greedy())[0].outputs[0].token_ids
    assert engine.stats.tokens_cached == cached
    with pytest.raises(NumericalError, match="position 64"):
        engine.generate([bad], greedy())
    with pytest.raises(NumericalError, match="the embedding"):
        engine.score([bad])
    with pytest.raises(NumericalError):
        list(engine.stream(bad, greedy()))


@pytest.mark.parametrize(
    ("name", "where"),
    [("gpt_neox.layers.1.mlp.dense_4h_to_h.bias", "layer 1"), ("gpt_neox.final_layer_norm.bias", "the final norm or the head")],
)
def test_the_layer_where_nan_first_appears_is_named(tmp_path, name, where):
    engine = Engine(poisoned(tmp_path, name), max_num_batched_tokens=8)
    with pytest.raises(NumericalError, match=where):
        engine.generate([clean_prompt(1, 30)], greedy(n=3))


@pytest.mark.parametrize("ahead", [False, True])
def test_submit_and_cancel_from_eight_threads_while_one_steps(folder_of, ahead):
    engine = Engine(folder_of(MODEL), async_scheduling=ahead)
    prompts = [clean_prompt(seed, 5 + seed % 40) for seed in range(80)]
    alone = [engine.generate([p], greedy(8))[0].outputs[0].token_ids for p in prompts]
    submitted, cancelled, lock = {}, set(), threading.Lock()

    def work(part):
        for i in range(part, len(prompts), 8):
            request = engine.submit(prompts[i], greedy(8))
            with lock:
                submitted[request] = i
                if i % 7 == 0:
                    cancelled.add(request)
            if i % 7 == 0:
                engine.cancel(request)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    ended = {}
    while any(thread.is_alive() for thread in threads) or engine.has_work():
        for delta in engine.step():
            if delta.finished:
                assert delta.request_id not in ended
                ended[delta.request_id] = delta.output.outputs[0]
    assert set(ended) == set(submitted)
    for request, completion in ended.items():
        if completion.finish_reason == "cancelled":
            assert request in cancelled
        else:
            assert completion.token_ids == alone[submitted[request]]


def test_two_threads_in_generate_at_once_get_their_own_answers(folder_of):
    engine = Engine(folder_of(MODEL))
    prompts = [[clean_prompt(10 * t + i, 20 + i) for i in range(6)] for t in range(2)]
    expected = [[o.outputs[0].token_ids for o in engine.generate(p, greedy(30))] for p in prompts]
    got = [None, None]

    def work(t):
        got[t] = [o.outputs[0].token_ids for o in engine.generate(prompts[t], greedy(30))]

    threads = [threading.Thread(target=work, args=(t,)) for t in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == expected


def test_a_second_raw_step_at_the_same_time_raises(folder_of):
    engine = Engine(folder_of(MODEL))
    for seed in range(32):
        engine.submit(clean_prompt(seed, 200), greedy(100))
    raised, stop = [], threading.Event()

    def work():
        while not stop.is_set() and engine.has_work():
            try:
                engine.step()
            except RuntimeError as error:
                raised.append(str(error))
                stop.set()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised
    assert "step() is running in another thread" in raised[0]


def test_use_after_fork_raises_and_the_parent_goes_on(folder_of):
    code = f"""
import os, sys
from neoxnative import Engine, SamplingParams
engine = Engine({folder_of(MODEL)!r})
child = os.fork()
if child == 0:
    try:
        engine.generate([[1, 2, 3]])
    except RuntimeError as error:
        os._exit(7 if "fork" in str(error) else 8)
    os._exit(9)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print(len(engine.generate([[1, 2, 3]], SamplingParams(max_tokens=3, ignore_eos=True))[0].outputs[0].token_ids))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "3\n", done.stderr


def test_ctrl_c_ends_generate_and_the_engine_is_usable_after_it(folder_of):
    engine = Engine(folder_of(MODEL))
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            engine.generate([clean_prompt(seed, 100) for seed in range(16)], greedy(250))
    assert len(engine.generate([clean_prompt(1, 10)], greedy(5))[0].outputs[0].token_ids) == 5
    assert engine.stats.running == 0
    assert engine.stats.blocks_used == 0

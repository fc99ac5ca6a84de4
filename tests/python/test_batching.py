# SPDX-License-Identifier: Apache-2.0
"""A request gives the same bits in any mix of requests, with the prefix cache on or off, and after preemptions."""

import numpy as np
import pytest

import models
from models import Model
from neoxnative import Engine, SamplingParams

MODEL = Model(seed=11, heads=2, head_dim=40, intermediate=120, max_positions=256)
PAGE = 16 * 2 * 48 * 4 * 2 * MODEL.layers  # bytes: positions * heads * padded head size * float32 * (k, v) * layers


def requests():
    """Prompts that share beginnings, with every kind of parameters."""
    stem = models.prompt(1, 120, MODEL.vocab).tolist()
    kinds = [
        {"temperature": 0.0},
        {"temperature": 0.8, "top_p": 0.9},
        {"temperature": 1.2, "top_k": 20, "n": 3},
        {"temperature": 0.0, "prompt_logprobs": 2, "prompt_logprobs_start": 40, "logprobs": 3},
        {"temperature": 1.0, "min_p": 0.05, "prompt_logprobs": 0, "n": 2},
    ]
    made = []
    for i in range(25):
        prompt = stem[: (7, 16, 33, 64, 100)[i % 5]] + models.prompt(100 + i, 1 + 3 * i % 29, MODEL.vocab).tolist()
        made.append((prompt, SamplingParams(max_tokens=10 + i, seed=i // 2, ignore_eos=True, **kinds[i * 7 % len(kinds)])))
    return made


REQUESTS = requests()


def bits_of(output):
    """All that a request gave: ids, and the bits of every log-prob."""
    parts = []
    for completion in output.outputs:
        parts.append((completion.index, completion.token_ids, np.float32(completion.token_logprobs).tobytes(), completion.logprobs))
    return parts, output.prompt_logprobs


def open_engine(folder, **options):
    return Engine(folder, dtype="float32", device="cpu", **{"num_threads": 1, **options})


@pytest.fixture(scope="module")
def alone(folder_of):
    engine = open_engine(folder_of(MODEL), enable_prefix_caching=False)
    return [bits_of(engine.generate(prompt, params)[0]) for prompt, params in REQUESTS]


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("pages", [20, 400])
@pytest.mark.parametrize("tokens", [24, 256])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_request_gives_the_same_bits_in_any_mix_with_the_cache_on_or_off_under_preemption_and_planned_ahead(
    folder_of, alone, caching, pages, tokens, ahead
):
    engine = open_engine(
        folder_of(MODEL),
        enable_prefix_caching=caching,
        kv_cache_memory=pages * PAGE,
        max_num_batched_tokens=tokens,
        async_scheduling=ahead,
        num_threads=2,
    )
    assert engine.info.num_blocks == pages
    outputs = engine.generate([prompt for prompt, _ in REQUESTS], [params for _, params in REQUESTS])
    assert [bits_of(output) for output in outputs] == alone
    stats = engine.stats
    assert (stats.preemptions > 0) == (pages == 20)
    assert (stats.tokens_cached > 0) == caching
    assert stats.blocks_used == stats.running == stats.waiting == 0
    assert stats.requests == stats.finished == len(REQUESTS)
    assert stats.tokens_generated == sum(len(c.token_ids) for output in outputs for c in output.outputs)


def test_a_second_run_of_the_same_prompts_comes_from_the_cache_with_the_same_bits(folder_of, alone):
    engine = open_engine(folder_of(MODEL))
    for _ in range(2):
        before = engine.stats.tokens_cached
        outputs = engine.generate([prompt for prompt, _ in REQUESTS], [params for _, params in REQUESTS])
        assert [bits_of(output) for output in outputs] == alone
    whole_pages = sum((len(prompt) - 1) // 16 * 16 for prompt, params in REQUESTS if params.prompt_logprobs is None)
    assert engine.stats.tokens_cached - before >= whole_pages


def test_scores_are_the_log_softmax_of_forward_and_agree_with_prompt_logprobs(folder_of):
    engine = open_engine(folder_of(MODEL))
    ids = models.prompt(5, 90, MODEL.vocab)
    logits = engine.forward(ids[None])[0].astype(np.float64)
    expected = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) - logits.max(1, keepdims=True)
    score = engine.score([ids])[0]
    assert score.logprobs[0] is None
    np.testing.assert_allclose(score.logprobs[1:], expected[np.arange(89), ids[1:]], atol=2e-6)
    assert score.perplexity == pytest.approx(np.exp(-np.mean(score.logprobs[1:])))
    from_40 = engine.score([ids], start=40)[0]
    assert from_40.logprobs == [None] * 40 + score.logprobs[40:]
    output = engine.generate([ids], SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=4, logprobs=4))[0]
    for position in range(1, 90):
        entry = output.prompt_logprobs[position]
        row = expected[position - 1]
        best = np.argsort(-row, kind="stable")[:4]
        assert set(entry) == {*best.tolist(), int(ids[position])}
        assert entry[int(ids[position])].logprob == score.logprobs[position]
        assert entry[int(ids[position])].rank == int((row > row[ids[position]]).sum())
        assert [entry[int(i)].rank for i in best] == [0, 1, 2, 3]
    assert output.outputs[0].logprobs[0][output.outputs[0].token_ids[0]].rank == 0


def test_samples_of_one_request_are_those_of_their_index_and_differ(folder_of):
    engine = open_engine(folder_of(MODEL))
    prompt = models.prompt(3, 37, MODEL.vocab)
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=5, n=8, ignore_eos=True)
    first, second = (engine.generate([prompt], params)[0] for _ in range(2))
    ids = [completion.token_ids for completion in first.outputs]
    assert ids == [completion.token_ids for completion in second.outputs]
    assert len({tuple(i) for i in ids}) == 8
    one = engine.generate([prompt], SamplingParams(max_tokens=20, temperature=1.0, seed=5, ignore_eos=True))[0]
    assert one.outputs[0].token_ids == ids[0]


@pytest.mark.parametrize("ahead", [False, True])
def test_min_tokens_keeps_eos_and_stop_ids_away_and_ids_that_end_are_reported(folder_of, ahead):
    engine = open_engine(folder_of(MODEL), async_scheduling=ahead)
    prompt = models.prompt(3, 9, MODEL.vocab)
    every = list(range(1, 17))
    for n in (1, 3):
        params = SamplingParams(max_tokens=60, min_tokens=12, temperature=1.5, seed=2, stop_token_ids=every, n=n)
        for completion in engine.generate([prompt], params)[0].outputs:
            assert not {0, *every} & set(completion.token_ids[:12])
            assert completion.finish_reason == "stop"
            assert completion.stop_reason == completion.token_ids[-1] in {0, *every}


@pytest.mark.parametrize("ahead", [False, True])
def test_a_cancelled_request_says_so_and_gives_its_pages_back(folder_of, ahead):
    engine = open_engine(folder_of(MODEL), async_scheduling=ahead)
    keep = engine.submit(models.prompt(1, 20, MODEL.vocab), SamplingParams(max_tokens=30, ignore_eos=True))
    drop = engine.submit(models.prompt(2, 20, MODEL.vocab), SamplingParams(max_tokens=200, ignore_eos=True, n=2))
    ended = {}
    for step in range(200):
        if step == 5:
            engine.cancel(drop)
        for delta in engine.step():
            if delta.finished:
                ended[delta.request_id] = delta.output
        if not engine.has_work():
            break
    assert [c.finish_reason for c in ended[drop].outputs] == ["cancelled"] * 2
    assert 0 < len(ended[drop].outputs[0].token_ids) < 10
    assert ended[keep].outputs[0].finish_reason == "length"
    assert engine.stats.blocks_used == 0

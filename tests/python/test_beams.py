# SPDX-License-Identifier: Apache-2.0
"""Beam search: HuggingFace's hypotheses and scores, and beams as any other request of a batch."""

import numpy as np
import pytest

import beam_cases
import models
from conftest import DATA
from models import Model
from neoxnative import Engine, SamplingParams

ERROR = 1e-4


@pytest.fixture(scope="module")
def goldens():
    with np.load(DATA / "beams.npz") as file:
        return dict(file)


@pytest.mark.parametrize("pages", [None, 60])
def test_hypotheses_scores_and_sums_of_log_probs_are_huggingfaces(goldens, folder_of, pages):
    at = ended = 0
    for model in beam_cases.MODELS.values():
        memory = pages and pages * 16 * 2 * model.heads * -(-model.head_dim // 16) * 16 * 4 * model.layers
        engine = Engine(folder_of(model), dtype="float32", device="cpu", kv_cache_memory=memory)
        prompts, params = [], []
        for variant in beam_cases.variants(0, 5).values():
            for point in beam_cases.GRID:
                prompts.append(beam_cases.prompts(model.vocab)[len(prompts) % len(beam_cases.PROMPT_LENGTHS)])
                params.append(beam_cases.params(*point, variant))
        for output in engine.generate(prompts, params):
            for made in output.outputs:
                want = goldens["ids"][at][: goldens["lengths"][at]].tolist()
                assert made.token_ids == want, f"hypothesis {at}"
                assert made.score == pytest.approx(goldens["scores"][at], rel=ERROR, abs=ERROR)
                assert made.cumulative_logprob == pytest.approx(goldens["sums"][at], abs=ERROR)
                ended += made.finish_reason == "stop"
                at += 1
        assert engine.stats.blocks_used == engine.stats.running == engine.stats.waiting == 0
        assert (engine.stats.preemptions > 0) == (pages is not None)
    assert at == len(goldens["lengths"])
    assert ended > at // 20


MODEL = Model(seed=11, heads=2, head_dim=40, intermediate=120, max_positions=256)
PAGE = 16 * 2 * 48 * 4 * 2 * MODEL.layers


def mixed_requests():
    """Greedy, sampled and beam requests, with edits and without."""
    stem = models.prompt(1, 120, MODEL.vocab).tolist()
    kinds = [
        {"temperature": 0.0},
        {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2, "n": 2},
        {"beam_width": 4, "n": 3, "logprobs": 2},
        {"beam_width": 7, "length_penalty": 0.0, "early_stopping": True, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"temperature": 1.0, "typical_p": 0.8, "bad_words": [[4], [5, 6]], "frequency_penalty": 0.5},
        {"beam_width": 2, "n": 2, "early_stopping": "never", "prompt_logprobs": 1, "beam_search_diversity_rate": 0.3},
    ]
    made = []
    for i in range(24):
        prompt = stem[: (7, 16, 33, 64, 100)[i % 5]] + models.prompt(100 + i, 1 + 3 * i % 29, MODEL.vocab).tolist()
        made.append((prompt, SamplingParams(max_tokens=12 + i, seed=i, ignore_eos=i % 3 == 0, **kinds[i % len(kinds)])))
    return made


REQUESTS = mixed_requests()


def bits_of(output):
    parts = [
        (c.index, c.token_ids, np.float32(c.token_logprobs).tobytes(), c.logprobs, c.score, c.finish_reason, c.stop_reason)
        for c in output.outputs
    ]
    return parts, output.prompt_logprobs


@pytest.fixture(scope="module")
def alone(folder_of):
    engine = Engine(folder_of(MODEL), dtype="float32", device="cpu", num_threads=1, enable_prefix_caching=False)
    return [bits_of(engine.generate(prompt, params)[0]) for prompt, params in REQUESTS]


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("pages", [50, 400])
@pytest.mark.parametrize("tokens", [24, 256])
@pytest.mark.parametrize("ahead", [False, True])
def test_greedy_sampled_and_beam_requests_give_the_same_bits_in_one_batch_as_alone(folder_of, alone, caching, pages, tokens, ahead):
    engine = Engine(
        folder_of(MODEL),
        dtype="float32",
        device="cpu",
        enable_prefix_caching=caching,
        kv_cache_memory=pages * PAGE,
        max_num_batched_tokens=tokens,
        async_scheduling=ahead,
        num_threads=2,
    )
    outputs = engine.generate([prompt for prompt, _ in REQUESTS], [params for _, params in REQUESTS])
    assert [bits_of(output) for output in outputs] == alone
    stats = engine.stats
    assert (stats.preemptions > 0) == (pages == 50 and tokens == 256)
    assert stats.blocks_used == stats.running == stats.waiting == 0
    assert stats.tokens_generated == sum(len(c.token_ids) for output in outputs for c in output.outputs)


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("pages", [50, 400])
def test_mixed_requests_give_the_tokens_of_one_rank_on_any_grid_of_ranks(folder_of, alone, tp, pp, pages):
    engine = Engine(
        folder_of(MODEL),
        dtype="float32",
        device="cpu",
        tensor_parallel_size=tp,
        pipeline_parallel_size=pp,
        kv_cache_memory=pages * PAGE // (tp * pp),
    )
    outputs = engine.generate([prompt for prompt, _ in REQUESTS], [params for _, params in REQUESTS])
    for output, (want, _) in zip(outputs, alone):
        assert [c.token_ids for c in output.outputs] == [ids for _, ids, *_ in want]
        for made, (_, _, _, _, score, *_) in zip(output.outputs, want):
            assert made.score == (score if score is None else pytest.approx(score, abs=1e-4))
        if tp == 1:
            assert bits_of(output)[0] == want
    assert engine.stats.blocks_used == engine.stats.running == engine.stats.waiting == 0


def test_a_prompt_is_computed_once_for_all_beams(folder_of):
    engine = Engine(folder_of(MODEL), dtype="float32", device="cpu")
    prompt = models.prompt(9, 100, MODEL.vocab).tolist()
    engine.generate([prompt], SamplingParams(max_tokens=11, beam_width=8, ignore_eos=True))
    assert engine.stats.tokens_computed == 100 + 10 * 8


def test_a_cancelled_search_says_so_and_gives_its_pages_back(folder_of):
    engine = Engine(folder_of(MODEL), dtype="float32", device="cpu")
    request = engine.submit(models.prompt(2, 20, MODEL.vocab), SamplingParams(max_tokens=200, ignore_eos=True, beam_width=5, n=3))
    for _ in range(5):
        assert engine.step() == []
    assert engine.stats.blocks_used > 0
    engine.cancel(request)
    deltas = engine.step()
    assert [(delta.index, delta.finish_reason) for delta in deltas] == [(i, "cancelled") for i in range(3)]
    assert engine.stats.blocks_used == 0 and not engine.has_work()


def test_bans_that_leave_nothing_fail_a_search_by_name(folder_of):
    engine = Engine(folder_of(MODEL), dtype="float32", device="cpu")
    params = SamplingParams(max_tokens=9, beam_width=3, allowed_token_ids=[4], bad_words=[[4]])
    good = SamplingParams(max_tokens=4, beam_width=3, ignore_eos=True)
    bad, fine = engine.generate([[1, 2], [1, 2]], [params, good])
    assert bad.outputs[0].finish_reason == "error" and "every token is banned" in str(bad.outputs[0].error)
    assert fine.outputs[0].finish_reason == "length"
    few = engine.generate([1, 2], SamplingParams(max_tokens=4, beam_width=4, n=4, ignore_eos=True, allowed_token_ids=[5]))[0].outputs
    assert [made.finish_reason for made in few] == ["length", "error", "error", "error"] and few[0].token_ids == [5] * 4
    assert "with 1 hypotheses finished, of n 4" in str(few[1].error)


def test_stop_strings_and_phrases_end_hypotheses(folder_of):
    engine = Engine(folder_of(MODEL), dtype="float32", device="cpu")
    prompt = models.prompt(4, 12, MODEL.vocab).tolist()
    free = engine.generate([prompt], SamplingParams(max_tokens=20, beam_width=4, ignore_eos=True))[0].outputs[0]
    phrase = free.token_ids[3:5]
    params = SamplingParams(max_tokens=20, beam_width=4, n=4, ignore_eos=True, stop=[phrase], length_penalty=0.0)
    made = engine.generate([prompt], params)[0].outputs
    assert any(c.finish_reason == "stop" for c in made)
    for c in made:
        ends = [i for i in range(2, len(c.token_ids) + 1) if c.token_ids[i - 2 : i] == phrase]
        assert ends == ([len(c.token_ids)] if c.finish_reason == "stop" else [])


BAD = [
    ({"beam_width": 0}, "beam_width is 0, expected 1 to 64"),
    ({"beam_width": 65}, "beam_width is 65, expected 1 to 64"),
    ({"beam_width": 4, "n": 5}, r"n is 5, expected 1 to beam_width \(4\)"),
    ({"length_penalty": float("inf")}, "length_penalty is inf, expected -100 to 100"),
    ({"early_stopping": "soon"}, "early_stopping is 'soon', expected False, True or \"never\""),
    ({"beam_search_diversity_rate": float("nan")}, "beam_search_diversity_rate is nan, expected a finite number"),
]


def test_a_search_goes_on_with_fewer_beams_where_most_continuations_end(folder_of):
    engine = Engine(folder_of(MODEL), max_num_seqs=16)
    prompt = models.prompt(9, 21, MODEL.vocab).tolist()
    stop = [[i] for i in range(MODEL.vocab) if i % 3]  # two thirds of all tokens
    params = SamplingParams(beam_width=5, n=5, max_tokens=30, stop=stop, ignore_eos=True, early_stopping="never", length_penalty=2.0)
    (output,) = engine.generate([prompt], params)
    assert len(output.outputs) == 5
    for made in output.outputs:
        assert all(i % 3 == 0 for i in made.token_ids[:-1])
        assert made.finish_reason == ("stop" if made.token_ids[-1] % 3 else "length")
    assert engine.stats.blocks_used == 0


@pytest.mark.parametrize(("fields", "message"), BAD, ids=[str(fields) for fields, _ in BAD])
def test_bad_values_name_field_value_and_range(fields, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**fields)


def test_a_group_that_cannot_fit_even_alone_is_refused(folder_of):
    engine = Engine(folder_of(MODEL), dtype="float32", device="cpu", kv_cache_memory=20 * PAGE, max_num_seqs=16)
    prompt = models.prompt(1, 40, MODEL.vocab)
    with pytest.raises(ValueError, match="needs 26 pages of the KV cache for beams of 80 tokens, but there are 20"):
        engine.submit(prompt, SamplingParams(max_tokens=40, beam_width=8))
    with pytest.raises(ValueError, match="beam_width is 17, expected at most max_num_seqs"):
        engine.submit(prompt[:2], SamplingParams(max_tokens=1, beam_width=17))
    assert len(engine.generate([prompt], SamplingParams(max_tokens=40, beam_width=6, n=6, ignore_eos=True))[0].outputs) == 6

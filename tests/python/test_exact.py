# SPDX-License-Identifier: Apache-2.0
"""A request's bits do not depend on what else runs, on how its prompt is cut, on threads, or on the instruction set."""

import numpy as np
import pytest

import models
from models import Model
from neoxnative import Engine, SamplingParams

MODEL = Model(seed=7, heads=3, head_dim=24, intermediate=200, rotary_pct=0.5, max_positions=256)
LENGTHS = (1, 2, 3, 15, 16, 17, 31, 32, 33, 47, 48, 64, 65, 100, 127, 128, 200)
PROMPTS = [models.prompt(seed, length, MODEL.vocab) for seed, length in enumerate(LENGTHS)]
NEW_TOKENS = 24
# Greedy and drawn rows side by side.
PARAMS = [
    SamplingParams(max_tokens=NEW_TOKENS, temperature=(0.0, 0.9)[i % 2], top_p=0.95, top_k=50, seed=i, ignore_eos=True)
    for i in range(len(PROMPTS))
]
DTYPES = ("float32", "float16", "bfloat16")
BATCH = np.stack([models.prompt(100 + i, 70, MODEL.vocab) for i in range(5)])


def open_engine(folder, dtype, **options):
    return Engine(folder, dtype=dtype, device="cpu", **{"isa": "avx2", "num_threads": 1, **options})


def bits_of(output):
    made = output.outputs[0]
    assert len(made.token_ids) == NEW_TOKENS
    return made.token_ids, np.array(made.token_logprobs, np.float32).tobytes()


def generate_all(engine):
    return [bits_of(output) for output in engine.generate([ids.tolist() for ids in PROMPTS], PARAMS)]


@pytest.fixture(scope="module", params=DTYPES)
def alone(request, folder_of, cpu_isas):
    """dtype, and what each request gives alone in one thread of AVX2: (token ids, log-prob bits) of each prompt, logits of each row."""
    if "avx2" not in cpu_isas:
        pytest.skip("this CPU has no AVX2")
    engine = open_engine(folder_of(MODEL), request.param)
    made = [bits_of(engine.generate([ids.tolist()], params)[0]) for ids, params in zip(PROMPTS, PARAMS)]
    return request.param, made, [engine.forward(ids[None]) for ids in BATCH]


VARIANTS = {
    "in a batch": {},
    "in a batch of at most 4": {"max_num_seqs": 4},
    "chunked": {"max_num_batched_tokens": 16, "max_num_seqs": 16},
    "by two threads": {"num_threads": 2},
    "by AVX-512": {"isa": "avx512"},
    "by two threads of AVX-512, chunked": {"isa": "avx512", "num_threads": 2, "max_num_batched_tokens": 16, "max_num_seqs": 16},
    "in large pages": {"block_size": 32},
}


@pytest.fixture(params=VARIANTS)
def variant(request, cpu_isas):
    options = VARIANTS[request.param]
    if options.get("isa", "avx2") not in cpu_isas:
        pytest.skip("this CPU has no AVX-512")
    return options


def test_a_request_gives_the_same_tokens_and_log_probs_as_alone(variant, alone, folder_of):
    dtype, made, _ = alone
    assert generate_all(open_engine(folder_of(MODEL), dtype, **variant)) == made


def test_forward_gives_the_same_logits_as_alone(variant, alone, folder_of):
    dtype, _, rows = alone
    logits = open_engine(folder_of(MODEL), dtype, **variant).forward(BATCH)
    for got, want in zip(logits, rows):
        assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_do_not_depend_on_later_tokens(dtype, folder_of):
    engine = Engine(folder_of(MODEL), dtype=dtype, device="cpu")
    ids = models.prompt(3, 200, MODEL.vocab)
    whole = engine.forward(ids[None])[0]
    for length in (1, 16, 17, 130):
        assert engine.forward(ids[None, :length])[0].tobytes() == whole[:length].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_request_twice_gives_the_same_bits(dtype, folder_of):
    engine = Engine(folder_of(MODEL), dtype=dtype, device="cpu")
    assert generate_all(engine) == generate_all(engine)


@pytest.mark.parametrize("dtype", DTYPES)
def test_generated_log_probs_are_those_of_forward(dtype, folder_of):
    engine = Engine(folder_of(MODEL), dtype=dtype, device="cpu")
    for ids, output in zip(PROMPTS, engine.generate([ids.tolist() for ids in PROMPTS], PARAMS)):
        made = output.outputs[0]
        fed = np.concatenate([ids, made.token_ids[:-1]]).astype(np.int32)
        logits = engine.forward(fed[None])[0, len(ids) - 1 :].astype(np.float64)
        for row, token, logprob in zip(logits, made.token_ids, made.token_logprobs):
            want = row[token] - row.max() - np.log(np.exp(row - row.max()).sum())
            assert abs(logprob - want) < 5e-6

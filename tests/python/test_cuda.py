# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend below a whole engine, against the CPU's; skipped where there is no GPU."""

import dataclasses
import re

import numpy as np
import pytest

import beam_cases
import models
import prompt_cases
import reference
import test_batching
import test_processors
import test_prompt_learning
from conftest import DATA
from models import Model
from neoxnative import Engine, SamplingParams, _core
from test_batching import bits_of

TINY = Model(seed=1, heads=2, head_dim=16, max_positions=256)
PROMPTS = ["The sea was calm", "She opened the letter and", "Once upon a time there lived", "“I never", "It"]
VARIANTS = {
    "parallel": {},
    "sequential": {"parallel_residual": False},
    "without attention biases": {"attention_bias": False},
    "sequential, without attention biases": {"parallel_residual": False, "attention_bias": False},
    "tied": {"tied": True},
    "full rotation": {"rotary_pct": 1.0},
    "tanh-GELU": {"hidden_act": "gelu_fast"},
    "relu": {"hidden_act": "relu"},
    "silu": {"hidden_act": "silu"},
    "heads of 24, odd vocabulary": {"heads": 3, "head_dim": 24, "intermediate": 200, "vocab": 257},
}
ERRORS = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}


@pytest.fixture(scope="module", autouse=True)
def gpu(folder_of):
    try:
        Engine(folder_of(TINY), device="cuda", kv_cache_memory=2**24)
    except NotImplementedError as error:
        pytest.skip(str(error))


def open_engine(folder=None, **options):
    return Engine(folder, **{"device": "cuda", "dtype": "float32", "kv_cache_memory": 2**28, **options})


def texts(engine, params):
    return [[sample.text for sample in output.outputs] for output in engine.generate(PROMPTS, params)]


GREEDY = SamplingParams(max_tokens=96, temperature=0)
DRAWN = {
    "temperature": SamplingParams(max_tokens=96, temperature=0.8, seed=1),
    "top-p": SamplingParams(max_tokens=96, temperature=0.9, top_p=0.9, seed=2),
    "all filters": SamplingParams(max_tokens=96, temperature=1.1, top_k=50, top_p=0.95, min_p=0.02, seed=3),
    "three samples": SamplingParams(max_tokens=48, temperature=0.9, top_k=40, seed=4, n=3),
}


def test_auto_takes_the_gpu_unless_an_instruction_set_is_named(folder_of):
    assert Engine(folder_of(TINY), kv_cache_memory=2**24).info.device == "cuda"
    assert Engine(folder_of(TINY), isa="generic").info.device == "cpu"


def test_greedy_text_is_the_cpus():
    assert texts(open_engine(), GREEDY) == texts(open_engine(device="cpu"), GREEDY)


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_text_is_the_cpus(name):
    assert texts(open_engine(), DRAWN[name]) == texts(open_engine(device="cpu"), DRAWN[name])


@pytest.mark.parametrize("options", ({"max_num_batched_tokens": 16, "max_num_seqs": 16}, {"max_num_seqs": 1}, {"block_size": 64}))
def test_text_does_not_depend_on_how_steps_are_cut(options):
    assert texts(open_engine(**options), GREEDY) == texts(open_engine(), GREEDY)


def test_log_probs_and_the_most_probable_tokens_are_the_cpus():
    params = SamplingParams(max_tokens=24, temperature=0, logprobs=8, prompt_logprobs=3)
    for ours, theirs in zip(open_engine().generate(PROMPTS, params), open_engine(device="cpu").generate(PROMPTS, params)):
        ours, theirs = ours.outputs[0], theirs.outputs[0]
        assert ours.token_ids == theirs.token_ids
        np.testing.assert_allclose(ours.token_logprobs, theirs.token_logprobs, atol=2e-4)


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_the_float64_model(name, dtype, folder_of, capsys):
    model = dataclasses.replace(TINY, **VARIANTS[name])
    ids = models.prompt(9, 100, model.vocab)
    want = reference.forward(model, models.tensors(model), ids)
    error = reference.relative_error(open_engine(folder_of(model), dtype=dtype).forward(ids[None])[0], want)
    with capsys.disabled():
        print(f"\n  {dtype}, {name}: relative error {error:.1e}", end="")
    assert error <= ERRORS[dtype]


def test_a_run_repeats_its_bits(folder_of):
    ids = models.prompt(9, 100, TINY.vocab)
    for dtype in ERRORS:
        engine = open_engine(folder_of(TINY), dtype=dtype, enable_prefix_caching=False)
        assert np.array_equal(engine.forward(ids[None]), engine.forward(ids[None]))


def test_what_the_gpu_can_do_is_measured_and_tensor_cores_show():
    assert 5e10 < _core.gpu_read_bandwidth() < 5e13
    peaks = {dtype: _core.gpu_matmul_peak(dtype) for dtype in ERRORS}
    assert 1e11 < peaks["float32"] < min(peaks["float16"], peaks["bfloat16"]) < 1e16
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        _core.gpu_matmul_peak("int8")


@pytest.fixture(scope="module")
def crowd(folder_of):
    """crowd(dtype, **options) -> what test_batching's requests give with 20 pages of cache, for which they drive each other out."""
    made = {}

    def run(dtype, **options):
        key = (dtype, *sorted(options.items()))
        if key not in made:
            folder = folder_of(test_batching.MODEL)
            info = open_engine(folder, dtype=dtype).info
            memory = 20 * info.kv_cache_bytes // info.num_blocks
            engine = open_engine(folder, dtype=dtype, kv_cache_memory=memory, max_num_batched_tokens=128, **options)
            prompts, params = zip(*test_batching.REQUESTS)
            made[key] = engine.generate(list(prompts), params)
            assert engine.stats.preemptions > 0
        return made[key]

    return run


@pytest.mark.parametrize("option", ["record_steps", "async_scheduling"])
def test_tokens_under_preemption_do_not_depend_on_recording_or_overlap(crowd, option):
    on, off = (crowd("float32", **{option: value}) for value in (True, False))
    for ours, theirs in zip(on, off):
        for mine, other in zip(ours.outputs, theirs.outputs):
            assert mine.token_ids == other.token_ids
            np.testing.assert_allclose(mine.token_logprobs, other.token_logprobs, atol=1e-4)


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("recorded", [True, False])
def test_programmatic_launch_under_preemption_does_not_change_a_bit(crowd, dtype, recorded):
    on, off = (crowd(dtype, record_steps=recorded, programmatic_launch=value) for value in (True, False))
    assert [bits_of(output) for output in on] == [bits_of(output) for output in off]


EXACT_SHAPES = {
    "heads of 40": test_batching.MODEL,
    "heads of 96": Model(seed=12, heads=4, head_dim=96, intermediate=1536, max_positions=256, parallel_residual=False),
}


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("shape", EXACT_SHAPES)
def test_deterministic_gives_a_request_the_same_bits_alone_and_in_any_mix_chunked_and_preempted(folder_of, dtype, shape):
    folder = folder_of(EXACT_SHAPES[shape])
    options = {"dtype": dtype, "deterministic": True}
    engine = open_engine(folder, enable_prefix_caching=False, max_num_batched_tokens=256, **options)
    alone = [bits_of(engine.generate(prompt, params)[0]) for prompt, params in test_batching.REQUESTS]
    page = engine.info.kv_cache_bytes // engine.info.num_blocks
    prompts, params = map(list, zip(*test_batching.REQUESTS))
    for mix in (
        {"max_num_batched_tokens": 24},
        {"max_num_batched_tokens": 256, "record_steps": False},
        {"max_num_batched_tokens": 128, "kv_cache_memory": 20 * page},
        {"max_num_batched_tokens": 128, "kv_cache_memory": 20 * page, "async_scheduling": False, "programmatic_launch": False},
    ):
        mixed = open_engine(folder, **options, **mix)
        assert [bits_of(output) for output in mixed.generate(prompts, params)] == alone, mix
        assert (mixed.stats.preemptions > 0) == ("kv_cache_memory" in mix)


@pytest.mark.parametrize("which", range(2), ids=["parallel", "sequential"])
@pytest.mark.parametrize("options", [{}, {"deterministic": True}, {"max_num_batched_tokens": 24, "record_steps": False}])
def test_learned_prompts_of_all_kinds_in_one_batch_are_huggingfaces(folder_of, which, options):
    model = prompt_cases.MODELS[which]
    engine = open_engine(folder_of(model), prompt_learning=prompt_cases.tasks(model), **options)
    with np.load(DATA / "prompts.npz") as file:
        goldens = dict(file)
    cases = prompt_cases.cases(model)
    for _ in range(2):  # the second time from the prefix cache
        outputs = engine.generate([case.prompt(model) for case in cases], [test_prompt_learning.params_of(case) for case in cases])
        test_prompt_learning.assert_huggingfaces(outputs, which, goldens)


BIG = Model(heads=4, head_dim=64, max_positions=2**14)  # its cache may grow beyond any GPU


def asked_and_free(error):
    found = re.search(r"cannot allocate (\d+) bytes of GPU memory: (\d+) bytes are free", str(error.value))
    assert found, error.value
    return map(int, found.groups())


@pytest.mark.parametrize("scores", ("float32", "model"))
@pytest.mark.parametrize("dtype", ERRORS)
def test_logits_of_unfused_attention_are_those_of_the_float64_model(dtype, scores, folder_of):
    ids = models.prompt(9, 100, TINY.vocab)
    want = reference.forward(TINY, models.tensors(TINY), ids)
    engine = open_engine(folder_of(TINY), dtype=dtype, attention="unfused", unfused_scores=scores)
    assert reference.relative_error(engine.forward(ids[None])[0], want) <= ERRORS[dtype]


def test_too_large_a_cache_is_a_memory_error_and_leaves_the_gpu_usable(folder_of):
    with pytest.raises(MemoryError) as error:
        open_engine(folder_of(BIG), kv_cache_memory=2**50, max_num_seqs=2**13)
    asked, free = asked_and_free(error)
    assert asked > free > 0
    assert texts(open_engine(), GREEDY) == texts(open_engine(), GREEDY)


def test_too_large_weights_are_a_memory_error_and_fit_once_others_are_gone(folder_of, tmp_path):
    wide = models.write(Model(heads=16, head_dim=128, vocab=300_000, layers=1), tmp_path, named={})
    fillers = [open_engine(folder_of(BIG), kv_cache_memory=None, max_num_seqs=2**13) for _ in range(2)]  # each takes nine tenths
    with pytest.raises(MemoryError) as error:
        open_engine(wide, load_format="dummy")
    asked, free = asked_and_free(error)
    assert asked > free > 0
    assert asked >= 300_000 * 2048 * 4
    del fillers
    open_engine(wide, load_format="dummy")


def test_beams_and_edits_give_the_hypotheses_and_tokens_of_the_cpu(folder_of):
    for model in beam_cases.MODELS.values():
        requests = [
            (prompt, beam_cases.params(*point, variant))
            for i, variant in enumerate(beam_cases.variants(0, 5).values())
            for j, point in enumerate(beam_cases.GRID)
            for prompt in [beam_cases.prompts(model.vocab)[(i + j) % len(beam_cases.PROMPT_LENGTHS)]]
        ]
        requests += [
            (models.prompt(i, 9 + i, model.vocab).tolist(), SamplingParams(max_tokens=24, temperature=0, **case))
            for i, case in enumerate(test_processors.cases())
            if "allowed_token_ids" not in case and "logit_bias" not in case
        ]
        prompts, params = zip(*requests)
        outputs = [open_engine(folder_of(model), device=device).generate(list(prompts), list(params)) for device in ("cuda", "cpu")]
        for got, want in zip(*outputs):
            assert [c.token_ids for c in got.outputs] == [c.token_ids for c in want.outputs]
            for mine, theirs in zip(got.outputs, want.outputs):
                assert mine.token_logprobs == pytest.approx(theirs.token_logprobs, abs=1e-4)
                if theirs.score is not None:
                    assert mine.score == pytest.approx(theirs.score, abs=1e-4)


def test_a_gemm_config_of_another_machine_is_not_used(tmp_path, folder_of):
    file = tmp_path / "gemm_config.in"
    line = "8 1 2 16 0 ### 1 96 8 32 0 0 20 1 0 0 0 0 0 0 0.01\n"
    digest = 0xCBF29CE484222325
    for byte in line.encode():
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    file.write_text(f"neoxnative gemm_config 1; gpu=Another; driver=1.0; cublaslt=1; digest={digest:016x}\n{line}")
    model = folder_of(TINY)
    prompts = [[1, 2, 3]] * 20
    plain, engine = open_engine(model), open_engine(model, gemm_config=file)
    assert ["expected choices made on this machine" in warning for warning in engine.info.warnings] == [True]
    assert engine.info.gemm_config == "none"
    for output, expected in zip(engine.generate(prompts, GREEDY), plain.generate(prompts, GREEDY)):
        assert bits_of(output) == bits_of(expected)
    missing = open_engine(model, gemm_config=tmp_path / "missing")
    assert ["no such file" in warning for warning in missing.info.warnings] == [True]
    deterministic = open_engine(model, gemm_config=file, deterministic=True)
    assert ["deterministic" in warning for warning in deterministic.info.warnings] == [True]

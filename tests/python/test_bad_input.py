# SPDX-License-Identifier: Apache-2.0
"""Options, prompts and parameters that are wrong are refused with what was expected and what was found, and the engine goes on."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import models
import neoxnative
from models import Model
from neoxnative import Engine, SamplingParams

TINY = Model(seed=1, heads=2, head_dim=16, max_positions=64)
PAGE = 2 * TINY.layers * 16 * TINY.heads * 16 * 4  # bytes: (k, v) * layers * positions * heads * head size * float32


# Options


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "float8"}, ValueError, "^dtype is 'float8', expected auto, float32, float16 or bfloat16"),
        ({"kv_cache_dtype": "int4"}, ValueError, "^kv_cache_dtype is 'int4', expected auto, float32, float16, bfloat16 or int8"),
        ({"dtype": 5}, TypeError, "^dtype is 5, expected a string or a type of numpy's"),
        ({"kv_cache_dtype": 5}, TypeError, "^kv_cache_dtype is 5, expected a string or a type of numpy's"),
        ({"quantization": 5}, TypeError, "^quantization is 5, expected a string: none, int8, w8a8, int4 or w4a8"),
        ({"device": 5}, TypeError, "^device is 5, expected a string"),
        ({"dtype": np.int32}, ValueError, "^dtype is 'int32', expected auto, float32"),
        ({"device": "tpu"}, ValueError, "device is 'tpu', expected auto, cpu or cuda"),
        ({"device": "cpu", "isa": "sse9"}, ValueError, "isa is 'sse9', expected auto, .*generic"),
        ({"load_format": "pickle"}, ValueError, "load_format is 'pickle', expected auto, safetensors, pt, eleutherai, ft or dummy"),
        ({"block_size": 10}, ValueError, "block_size is 10, expected a multiple of 16"),
        ({"block_size": 0}, ValueError, "block_size is 0, expected a multiple of 16"),
        ({"block_size": 2**40}, ValueError, "block_size is 1099511627776, expected a 32-bit integer"),
        ({"block_size": "16"}, TypeError, "block_size is '16', expected an integer"),
        ({"max_model_len": 65}, ValueError, "max_model_len is 65, expected at most the model's max_position_embeddings 64"),
        ({"max_model_len": -1}, ValueError, "max_model_len is -1, expected 1 or more"),
        ({"max_num_seqs": 0}, ValueError, "max_num_seqs is 0, expected 1 or more"),
        ({"max_num_batched_tokens": -5}, ValueError, "max_num_batched_tokens is -5, expected 1 or more"),
        ({"max_num_batched_tokens": 2**31 - 1}, ValueError, "max_num_batched_tokens is 2147483647, expected at most 1048576"),
        ({"max_logprobs": 5000}, ValueError, "max_logprobs is 5000, expected 0 to 1024"),
        ({"num_threads": -2}, ValueError, "num_threads is -2, expected"),
        ({"seed": -1}, ValueError, r"seed is -1, expected an integer in \[0, 2\*\*64\)"),
        ({"seed": 2**64}, ValueError, r"seed is 18446744073709551616, expected an integer in \[0, 2\*\*64\)"),
        ({"seed": 1.5}, TypeError, "seed is 1.5, expected an integer"),
        ({"kv_cache_memory": PAGE - 1}, MemoryError, f"may take {PAGE - 1} bytes, but one page of 16 positions takes {PAGE}"),
        ({"kv_cache_memory": -1}, ValueError, "kv_cache_memory is -1, expected"),
        ({"tokenizer": "/no/such/tokenizer.json"}, FileNotFoundError, "tokenizer.json is not a"),
    ],
)
def test_an_option_is_told_with_what_it_may_be(options, error, message, folder_of):
    with pytest.raises(error, match=message):
        Engine(folder_of(TINY), **{"dtype": "float32", "device": "cpu", "num_threads": 1, **options})


def test_page_tables_too_large_for_a_step_are_told_with_both_options(folder_of):
    folder = folder_of(Model(seed=1, heads=2, head_dim=16, max_positions=2**20))
    options = {"max_num_batched_tokens": 2**13, "max_num_seqs": 2**13, "max_model_len": 2**20}
    with pytest.raises(MemoryError, match="max_num_seqs 8192 of max_model_len 1048576 may have 536870912 pages in a step"):
        Engine(folder, dtype="float32", device="cpu", num_threads=1, **options)


def test_a_device_that_this_build_lacks_is_told_with_what_is_missing(folder_of):
    if list(Path(neoxnative.__file__).parent.glob("libneox_cuda*")):
        pytest.skip("this build has the CUDA plugin")
    with pytest.raises(NotImplementedError, match=r"device 'cuda' is not available: .*libneox_cuda\.so.*this build: cuda: off"):
        Engine(folder_of(TINY), device="cuda")


MANY_THREADS = """
import resource, sys
from neoxnative import Engine
used = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmSize:"))
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)  # room for the stacks of some threads
Engine(sys.argv[1], device="cpu", num_threads=500)
"""


def test_threads_that_the_system_does_not_give_are_an_error(folder_of):
    done = subprocess.run([sys.executable, "-c", MANY_THREADS, folder_of(TINY)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert re.search(r"RuntimeError: cannot start 500 threads, but \d+: ", done.stderr), done.stderr


def test_a_broken_tokenizer_is_told_with_its_file(tmp_path):
    models.write(TINY, tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer that the tokenizers library reads: "):
        Engine(tmp_path)


# Requests


@pytest.fixture(scope="module")
def engine(folder_of):
    return Engine(folder_of(TINY), device="cpu", num_threads=1, kv_cache_memory=4 * PAGE, max_logprobs=5)


@pytest.fixture(scope="module")
def good(engine):
    return engine.generate([1, 2, 3], SamplingParams(max_tokens=5, seed=1, ignore_eos=True))[0].outputs


@pytest.fixture
def usable(engine, good):
    """The engine; after the test it has to hold nothing, and to answer as before."""
    before = engine.stats.requests
    yield engine
    assert engine.generate([1, 2, 3], SamplingParams(max_tokens=5, seed=1, ignore_eos=True))[0].outputs == good
    stats = engine.stats
    assert (stats.running, stats.waiting, stats.blocks_used, stats.finished) == (0, 0, 0, stats.requests)
    assert stats.requests <= before + 3  # a refused request is not counted; its call's others may be


@pytest.mark.parametrize("prompts", [None, 5, b"ab", {1, 2}])
def test_what_is_no_prompt_is_a_type_error(usable, prompts):
    with pytest.raises(TypeError, match=f"prompts is a {type(prompts).__name__}, expected text, ids, or a list of these"):
        usable.generate(prompts)


BAD_PROMPTS = [
    ([[]], "the prompt is empty, expected at least one token"),
    ("text", r"the prompt is text, but .* has no tokenizer\.json: pass token ids, or Engine\(tokenizer=\.\.\.\)"),
    ([[131]], "the prompt's token 0 is 131, expected 0 to 130"),
    ([[1, 2, -7]], "the prompt's token 2 is -7, expected 0 to 130"),
    ([[1, 2], [4096]], "the prompt's token 0 is 4096, expected 0 to 130"),
    ([[2**40]], "the prompt holds .*outside of int32"),
    ([[1.5]], "the prompt holds float64, expected integers"),
    ([[True]], "the prompt holds bool, expected integers"),
    ([["1"]], "the prompt holds .*, expected integers"),
    ([None], "prompt"),
    ([[1, [2]]], "prompt is not an array: expected integers in 1 dimension"),
    (np.zeros((1, 1, 1), int), r"prompt has shape \[1, 1\], expected 1 dimension"),
    (list(range(64)), "the prompt has 64 tokens, expected fewer than max_model_len 64"),
    ([[1] * 65], "the prompt has 65 tokens, expected fewer than max_model_len 64"),
]


@pytest.mark.parametrize(("prompts", "message"), BAD_PROMPTS)
def test_a_bad_prompt_is_a_value_error_that_says_what_it_holds(usable, prompts, message):
    for call in (usable.generate, usable.score):
        if "fewer than" in message and call == usable.score:
            continue
        with pytest.raises(ValueError, match=message.replace("the prompt", "(the )?prompt")):
            call(prompts)
    assert not usable._requests


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1], r"input_ids has shape \[1\], expected 2 dimension"),
        ([[1.0]], "input_ids holds float64, expected integers"),
        ([[]], "input_ids"),
        ([[1, 2], [3]], "input_ids is not an array: expected integers in 2 dimension"),
        ([[2**35]], "input_ids holds ids outside of int32"),
        ([[4096]], "token 0 is 4096, expected 0 to 130"),
        ([[1] * 65], "input_ids has 65 positions, expected at most max_model_len 64"),
    ],
)
def test_forward_says_what_is_no_batch_of_ids(usable, ids, message):
    with pytest.raises(ValueError, match=message):
        usable.forward(ids)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"max_tokens": 0}, ValueError, "max_tokens is 0, expected 1 or more, or 0 with prompt_logprobs"),
        ({"max_tokens": -3}, ValueError, "max_tokens is -3, expected 1 or more"),
        ({"max_tokens": 2**40}, ValueError, "max_tokens is 1099511627776, expected a 32-bit integer"),
        ({"max_tokens": 1.5}, TypeError, "max_tokens is 1.5, expected an integer"),
        ({"max_tokens": "3"}, TypeError, "max_tokens is '3', expected an integer"),
        ({"min_tokens": 17}, ValueError, r"min_tokens is 17, expected 0 to max_tokens \(16\)"),
        ({"min_tokens": -1}, ValueError, "min_tokens is -1, expected 0 to"),
        ({"temperature": -1}, ValueError, r"temperature is -1, expected 0 \(greedy\) or 0.001 to 1000"),
        ({"temperature": 1e-9}, ValueError, "temperature is 1e-09, expected 0"),
        ({"temperature": float("nan")}, ValueError, "temperature is nan, expected 0"),
        ({"temperature": float("inf")}, ValueError, "temperature is inf, expected 0"),
        ({"temperature": "warm"}, TypeError, "temperature is 'warm', expected a number"),
        ({"top_k": -1}, ValueError, r"top_k is -1, expected 0 \(all\) or more"),
        ({"top_k": None}, TypeError, "top_k is None, expected an integer"),
        ({"top_p": 0}, ValueError, "top_p is 0, expected more than 0 and at most 1"),
        ({"top_p": 1.01}, ValueError, "top_p is 1.01, expected more than 0 and at most 1"),
        ({"top_p": float("nan")}, ValueError, "top_p is nan"),
        ({"min_p": 1.5}, ValueError, "min_p is 1.5, expected 0 to 1"),
        ({"n": 0}, ValueError, "n is 0, expected 1 to 256"),
        ({"n": 257}, ValueError, "n is 257, expected 1 to 256"),
        ({"n": 2, "max_tokens": 0, "prompt_logprobs": 0}, ValueError, "n is 2 with max_tokens 0, expected 1"),
        ({"seed": -1}, ValueError, r"seed is -1, expected an integer in \[0, 2\*\*64\)"),
        ({"seed": 2**64}, ValueError, r"seed is 18446744073709551616, expected an integer in"),
        ({"logprobs": -1}, ValueError, "logprobs is -1, expected 0 or more, or None"),
        ({"logprobs": 2.0}, TypeError, "logprobs is 2.0, expected an integer"),
        ({"prompt_logprobs": -2}, ValueError, "prompt_logprobs is -2, expected 0 or more, or None"),
        ({"prompt_logprobs_start": -1}, ValueError, "prompt_logprobs_start is -1, expected 0 or more"),
        ({"stop": ""}, ValueError, "stop holds an empty string"),
        ({"stop": ["a", ""]}, ValueError, "stop holds an empty string"),
        ({"stop": ["a", b"b"]}, TypeError, "stop holds b'b', expected strings"),
        ({"stop": 5}, TypeError, "stop is 5, expected a sequence of strings"),
        ({"stop": "a\ud800"}, ValueError, r"stop holds '\\ud800' at character 1, expected Unicode text without lone surrogates"),
        ({"stop_token_ids": [-1]}, ValueError, "stop_token_ids holds -1, expected 0 or more"),
        ({"stop_token_ids": ["a"]}, TypeError, "stop_token_ids is 'a', expected an integer"),
        ({"stop_token_ids": 5}, TypeError, "stop_token_ids is 5, expected a sequence of integers"),
        ({"stop_token_ids": range(17)}, ValueError, "stop_token_ids has 17 ids, expected at most 16"),
    ],
)
def test_bad_params_are_told_on_construction_by_field(fields, error, message):
    with pytest.raises(error, match=message):
        SamplingParams(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"logprobs": 6}, "logprobs is 6, expected at most max_logprobs 5"),
        ({"prompt_logprobs": 6}, "prompt_logprobs is 6, expected at most max_logprobs 5"),
        ({"stop": "x"}, "stop holds strings, but the engine has no vocabulary"),
    ],
)
def test_params_beyond_this_engine_are_told_with_its_limit(usable, fields, message):
    with pytest.raises(ValueError, match=message):
        usable.generate([[1, 2, 3], [4, 5]], SamplingParams(**fields))


def test_a_request_too_large_for_the_cache_is_told_with_the_pages(folder_of):
    engine = Engine(folder_of(TINY), device="cpu", num_threads=1, kv_cache_memory=2 * PAGE)
    with pytest.raises(ValueError, match="needs 3 pages of the KV cache for 33 tokens, but there are 2: raise kv_cache_memory"):
        engine.generate([1] * 30, SamplingParams(max_tokens=3))
    assert len(engine.generate([1] * 30, SamplingParams(max_tokens=2, ignore_eos=True))[0].outputs[0].token_ids) == 2


def test_text_that_is_no_unicode_is_told_with_its_place():
    with pytest.raises(ValueError, match=r"the prompt holds '\\udcff' at character 3, expected Unicode text without lone surrogates"):
        Engine(device="cpu", num_threads=1).generate("It \udcff")


def test_the_refused_one_of_many_prompts_is_named_and_the_others_are_cancelled(usable):
    with pytest.raises(ValueError) as raised:
        usable.generate([[1], [2], [500]])
    assert raised.value.__notes__ == ["in prompts[2]"]
    usable.step()
    assert not usable._requests

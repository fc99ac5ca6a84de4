# SPDX-License-Identifier: Apache-2.0
"""tools/gptneox_example.py: FasterTransformer's arguments, and what it prints."""

import re
import subprocess
import sys

import numpy as np
import pytest

import models
import mpi
from example import TOOLS
from neoxnative import Engine
from neoxnative.engine import DEMO_MODEL

TEXTS = ["It was a dark and stormy night", "Alice opened the door and", "My dear Watson,"]
RULE = "========================================="
BLOCK = re.compile(r"\[INFO\] batch (\d+), beam (\d+):\n\[Context\]\n(.*?)\n\n\[Output\]\n(.*?)\n(?=\n(?:\[INFO\]|\Z)|\Z)", re.DOTALL)


def script(*arguments, ranks=None, code=0):
    line = [sys.executable, TOOLS / "gptneox_example.py", *arguments]
    line = [str(word) for word in (line if ranks is None else mpi.command(ranks, *line))]
    done = subprocess.run(line, env=mpi.environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == code or (code and ranks and done.returncode), done.stderr
    return done.stdout if code == 0 else done.stderr


def blocks(stdout):
    """{(batch, beam): (context, output)}"""
    return {(int(i), int(j)): (context, output) for i, j, context, output in BLOCK.findall(stdout)}


@pytest.fixture(scope="module")
def engine():
    return Engine(dtype="float16")


@pytest.fixture
def sample(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    return file


def expected(engine, texts, **arguments):
    """What the script should print: by generate_ids, prompt by prompt."""
    made = {}
    arguments = {"request_output_len": 32, "runtime_top_k": 1, "end_id": 0} | arguments
    for i, text in enumerate(texts):
        ids = engine.tokenizer.encode(text)
        for j, row in enumerate(engine.generate_ids([ids], **arguments).output_ids[0].tolist()):
            made[i, j] = (text, engine.tokenizer.decode(row[len(ids) :]))
    return made


def test_without_arguments_it_continues_eight_prompts_of_end_of_text_alone(engine):
    out = script()
    head, block, rest = out.partition(f"{RULE}\n")
    assert head.startswith("\n=============== Arguments ===============\noutput_len: 32\nbeam_width: 1\ntop_k: 1\ntop_p: 0.0\n")
    for name in ("temperature: 1.0", "max_batch_size: 8", "inference_data_type: fp16", "time: False", "enable_random_seed: False"):
        assert f"\n{name}\n" in head
    assert rest.startswith("\n[INFO] batch size: 8\n")
    ids = engine.generate_ids([[0]], request_output_len=32, runtime_top_k=1, end_id=0).output_ids[0, 0].tolist()
    assert blocks(rest) == {(i, 0): ("<|endoftext|>", engine.tokenizer.decode(ids[1:])) for i in range(8)}


def test_lines_of_the_file_are_the_prompts_of_mixed_lengths(engine, sample):
    out = script(
        "--sample_input_file", sample, "--output_len", 12, "--max_batch_size", 2, "--ckpt_path", DEMO_MODEL, "--lib_path", "/no/such.so"
    )
    assert "[INFO] batch size: 2\n" in out
    assert blocks(out) == expected(engine, TEXTS[:2], request_output_len=12)


@pytest.mark.parametrize(
    ("arguments", "meaning"),
    [
        (("--beam_width", 3, "--len_penalty", 1.0), {"beam_width": 3, "len_penalty": 1.0}),
        (("--beam_width", 2, "--beam_search_diversity_rate", 0.5), {"beam_width": 2, "beam_search_diversity_rate": 0.5}),
        (
            ("--top_k", 0, "--top_p", 0.9, "--temperature", 0.8),
            {"runtime_top_k": 0, "runtime_top_p": 0.9, "temperature": 0.8, "random_seed": [0]},
        ),
        (("--repetition_penalty", 1.4), {"repetition_penalty": 1.4}),
    ],
)
def test_arguments_of_decoding_mean_what_generate_ids_means_by_them(engine, sample, arguments, meaning):
    assert blocks(script("--sample_input_file", sample, *arguments)) == expected(engine, TEXTS, **meaning)


@pytest.mark.parametrize(("name", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
@pytest.mark.parametrize("argument", ["--inference_data_type", "--data_type"])
def test_the_data_type_is_the_weights(sample, name, dtype, argument):
    out = script("--sample_input_file", sample, argument, name, "--tokenizer_path", DEMO_MODEL, "--max_seq_len", 64)
    assert blocks(out) == expected(Engine(dtype=dtype), TEXTS)


def test_max_seq_len_ends_rows(engine):
    output = blocks(script("--max_seq_len", 8, "--max_batch_size", 1))[0, 0][1]
    ids = engine.generate_ids([[0]], request_output_len=7, runtime_top_k=1).output_ids[0, 0, 1:].tolist()
    assert output == engine.tokenizer.decode(ids)


def test_a_seed_of_its_own_for_each_prompt_makes_equal_prompts_differ():
    arguments = ("--max_batch_size", 3, "--top_k", 0, "--top_p", 1.0, "--inference_data_type", "fp32")
    same = {output for _, output in blocks(script(*arguments)).values()}
    assert len(same) == 1
    other = {output for _, output in blocks(script(*arguments, "--enable_random_seed")).values()}
    assert len(other) == 3


def test_the_time_is_of_ten_calls():
    out = script("--time", "--output_len", 2, "--max_batch_size", 3)
    line = out.splitlines()[-1]
    seconds, tokens, rate = re.fullmatch(
        r"\[INFO\] FT-GPT generates 10 batches, taking (\S+) secs to generate (\d+) tokens, (\S+) tokens/sec\.", line
    ).groups()
    assert int(tokens) == 10 * 3 * 2
    assert np.isclose(float(rate), 60 / float(seconds), rtol=0.05)


def test_a_checkpoint_without_a_tokenizer_prints_ids(folder_of):
    folder = folder_of(models.Model(seed=3, heads=2, head_dim=16))
    (context, output) = blocks(script("--ckpt_path", folder, "--max_batch_size", 1, "--output_len", 3))[0, 0]
    assert context == "0"
    assert len(output.split()) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ckpt_path", "/no/such/folder"), "/no/such/folder"),
        (("--sample_input_file", "/no/such/file"), "/no/such/file"),
        (("--max_batch_size", 0), "max_batch_size is 0, expected 1 or more"),
        (("--beam_width", 65), "beam_width is 65, expected 1 to 64"),
        (("--tensor_para_size", 3), "tensor_parallel_size is 3"),
        (("--max_seq_len", -1), "max_model_len is -1"),
        (("--temperature", -1), "temperature is -1"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(arguments, message):
    said = script(*arguments, code=1)
    assert message in said
    assert said.startswith("gptneox_example.py: ")
    assert said.count("\n") == 1


def test_lines_that_are_no_prompts_are_named(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\ntwo\n")
    assert f"{file}:2: expected a prompt, found an empty line" in script("--sample_input_file", file, code=1)
    file.write_text("")
    assert f"{file}: expected one prompt a line, found none" in script("--sample_input_file", file, code=1)


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("launched", [True, False])
def test_ranks_that_are_threads_or_processes_print_the_same(sample, tp, pp, launched):
    arguments = ("--sample_input_file", sample, "--inference_data_type", "fp32", "--output_len", 8)
    ranks = ("--tensor_para_size", tp, "--pipeline_para_size", pp)
    assert blocks(script(*arguments, *ranks, ranks=tp * pp if launched else None)) == blocks(script(*arguments))


def test_under_mpirun_sizes_that_are_not_the_ranks_end_all_of_them():
    said = script("--tensor_para_size", 3, ranks=2, code=1)
    assert "tensor_para_size 3 * pipeline_para_size 1: expected the number of MPI ranks, 2" in said

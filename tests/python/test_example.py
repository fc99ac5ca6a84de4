# SPDX-License-Identifier: Apache-2.0
"""The programs with FasterTransformer's command lines: gptneox_example and gpt_gemm."""

import re
import subprocess

import pytest

from example import INSTANCE, MODEL, REQUEST, TOOLS, Job, expected, program, rows_of
from neoxnative import Engine
from neoxnative.engine import DEMO_MODEL


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


@pytest.fixture(scope="module")
def engine():
    return Engine(dtype="float32")


def test_without_an_argument_the_demo_says_from_any_folder_what_the_command_line_says(tmp_path, engine, run_cli):
    done = subprocess.run([program("gptneox_example")], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    prompts = rows_of(TOOLS / "start_ids.csv")
    rows = [[int(i) for i in line.split()] for line in (tmp_path / "out").read_text().splitlines()]
    assert rows == expected(engine, prompts, width=12 + 128, max_tokens=128, temperature=0.8, top_p=0.95, seed=0)
    assert engine.tokenizer.decode(rows[0]) == run_cli("generate", "It was a dark and stormy night").stdout.removesuffix("\n")


def test_the_demo_prompts_are_texts_behind_an_end_of_text(engine):
    texts = [engine.tokenizer.decode(row) for row in rows_of(TOOLS / "start_ids.csv")]
    assert len(texts) == 8
    assert "It was a dark and stormy night" in texts[0]
    assert all(row[0] == 0 for row in rows_of(TOOLS / "start_ids.csv"))


def test_stdout_has_the_original_layout_and_the_time_in_field_17(job):
    lines = job.succeeds().stdout.splitlines()
    assert lines[0] == "Total ranks: 1."
    assert lines[1].startswith("Device cpu (")
    assert lines[2] == "P0 is running with CPU #0."
    assert re.fullmatch(r"after allocation    : free: +\d+\.\d\d GB, total: +\d+\.\d\d GB, used: +\d+\.\d\d GB", lines[3])
    ids = [i for row in job.out() for i in row]
    assert lines[4] == f"Writing {len(ids)} elements"
    assert lines[5] == "".join(f"{i:5d} " for i in ids[:10])
    assert lines[6] == f"zeroCount = {ids.count(0)}"
    fields = lines[-1].split()
    assert len(lines) == 8
    assert " ".join(fields[:15]) == (
        "[INFO] request_batch_size 8 beam_width 1 head_num 4 size_per_head 64 total_output_len 44 decoder_layers 6 vocab_size 4096"
    )
    assert fields[15] == "FT-CPP-decoding-beamsearch-time"
    assert re.fullmatch(r"\d+\.\d\d", fields[16])
    assert float(fields[16]) > 0
    assert fields[17:] == ["ms"]


def test_the_look_at_the_first_ids_breaks_where_a_row_ends(job):
    job.prompts([5], [6, 7])
    job.set(REQUEST, request_batch_size=2, request_output_len=2)
    done = job.succeeds()
    a, b = job.out()
    assert "".join(f"{i:5d} " for i in a) + "\n" + "".join(f"{i:5d} " for i in b) + "\n\nzeroCount" in done.stdout


def test_the_longest_line_of_the_file_sets_the_width_and_the_first_lines_are_used(job, engine):
    job.prompts([0, 790, 309], [0, 48], [0] * 20)
    job.set(REQUEST, request_batch_size=2, request_output_len=5)
    job.succeeds()
    assert job.out() == expected(engine, [[0, 790, 309], [0, 48]], width=25, max_tokens=5)


def test_rows_beyond_the_file_start_from_end_id_and_are_announced(job, engine):
    job.prompts([0, 790, 309], [0, 48])
    job.set(REQUEST, request_batch_size=4, request_output_len=5)
    done = job.succeeds()
    assert job.out() == expected(engine, [[0, 790, 309], [0, 48], [0, 0, 0], [0, 0, 0]], width=8, max_tokens=5)
    assert "has 2 lines and request_batch_size is 4" in done.stderr


def test_batch_size_zero_means_every_line(job):
    job.prompts([0, 790, 309], [0, 48], [0])
    job.set(REQUEST, request_batch_size=0, request_output_len=1)
    assert "request_batch_size 3 " in job.succeeds().stdout
    assert [len(row) for row in job.out()] == [4, 4, 4]


def test_end_id_of_the_ini_ends_a_row_and_fills_it(job, engine):
    prompt = rows_of(TOOLS / "start_ids.csv")[0]
    (free,) = expected(engine, [prompt], width=len(prompt) + 8, max_tokens=8)
    end = free[len(prompt) + 3]
    job.prompts(prompt)
    job.set(REQUEST, request_batch_size=1, request_output_len=8)
    job.set(MODEL, end_id=end)
    done = job.succeeds()
    (row,) = job.out()
    stop = row.index(end, len(prompt))
    assert stop <= len(prompt) + 3
    assert row[: stop + 1] == free[: stop + 1]
    assert set(row[stop:]) == {end}
    assert f"end_id is {end}, but the checkpoint's end-of-text id is 0" in done.stderr


def test_min_length_holds_end_id_back(job, engine):
    prompt = rows_of(TOOLS / "start_ids.csv")[0]
    (free,) = expected(engine, [prompt], width=len(prompt) + 8, max_tokens=8)
    end = free[len(prompt)]
    job.prompts(prompt)
    job.set(REQUEST, request_batch_size=1, request_output_len=8, min_length=4)
    job.set(MODEL, end_id=end)
    job.succeeds()
    (row,) = job.out()
    assert end not in row[len(prompt) : len(prompt) + 4]


@pytest.mark.parametrize(
    ("keys", "params"),
    [
        ({"top_k": 0, "top_p": 0.0, "temperature": 0.7}, {"temperature": 0}),
        ({"top_k": 4, "top_p": 0.0, "temperature": 0.7}, {"temperature": 0.7, "top_k": 4}),
        ({"top_k": 0, "top_p": 0.9, "temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}),
        ({"top_k": 40, "top_p": 0.5, "temperature": 2.0}, {"temperature": 2.0, "top_k": 40, "top_p": 0.5}),
        ({"top_k": 1, "top_p": 0.9, "temperature": 2.0}, {"temperature": 0}),
    ],
)
def test_sampling_keys_mean_what_they_meant_and_every_row_has_seed_0(job, engine, keys, params):
    prompt = [0, 790, 309]
    job.prompts(prompt, prompt)
    job.set(REQUEST, request_batch_size=2, request_output_len=16, **keys)
    job.succeeds()
    rows = job.out()
    assert rows[0] == rows[1]
    assert rows == expected(engine, [prompt, prompt], width=19, max_tokens=16, seed=0, **params)


def test_paths_are_looked_for_beside_the_ini_then_in_the_current_folder(job, tmp_path):
    job.set(INSTANCE, model_dir="demo")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    job.folder = elsewhere  # the current directory; the ini stays
    (elsewhere / "demo").symlink_to(DEMO_MODEL)
    job.succeeds()
    (elsewhere / "demo").unlink()
    (tmp_path / "demo").symlink_to(DEMO_MODEL)
    job.succeeds()


def test_data_type_is_the_weights_type(job):
    for name in ("fp16", "bf16"):
        job.set(INSTANCE, data_type=name)
        job.succeeds()
        assert len(job.out()) == 8


REFUSED = [
    (INSTANCE, {"data_type": "half"}, "data_type: expected fp32, fp16 or bf16, found 'half'"),
    (INSTANCE, {"data_type": None}, "[ft_instance_hyperparameter] data_type is missing"),
    (INSTANCE, {"tensor_para_size": 0}, "tensor_para_size: expected an integer of at least 1, found '0'"),
    (INSTANCE, {"tensor_para_size": 3}, "tensor_parallel_size is 3, expected a divisor of the model's"),
    (INSTANCE, {"pipeline_para_size": 99}, "pipeline_parallel_size is 99, expected at most the model's"),
    (INSTANCE, {"model_name": "other"}, "[other] end_id is missing, and so is the section"),
    (INSTANCE, {"model_dir": "no/such/folder"}, "no/such/folder"),
    (REQUEST, {"top_k": -1}, "top_k: expected an integer of at least 0, found '-1'"),
    (REQUEST, {"top_k": "many"}, "[request] top_k: expected an integer"),
    (REQUEST, {"top_p": 1.5}, "top_p: expected a number from 0 to 1, found '1.5'"),
    (REQUEST, {"temperature": -1}, "temperature: expected 0 or a number from 0.001 to 1000, found '-1'"),
    (REQUEST, {"temperature": None}, "[request] temperature is missing"),
    (INSTANCE, {"device": "tpu"}, "device: expected auto, cpu or cuda, found 'tpu'"),
    (INSTANCE, {"load_format": "random"}, "load_format: expected auto or dummy, found 'random'"),
    (INSTANCE, {"enable_custom_all_reduce": 2}, "enable_custom_all_reduce: expected 0 or 1, found '2'"),
    (REQUEST, {"beam_width": 65}, "beam_width: expected 1 to 64, found '65"),
    (REQUEST, {"beam_width": 0}, "beam_width: expected an integer of at least 1, found '0"),
    (REQUEST, {"repetition_penalty": 0}, "repetition_penalty: expected more than 0 and at most 100, found '0'"),
    (REQUEST, {"presence_penalty": -3}, "presence_penalty: expected -2 to 2, found '-3'"),
    (REQUEST, {"len_penalty": 101}, "len_penalty: expected -100 to 100, found '101'"),
    (REQUEST, {"beam_search_diversity_rate": "nan"}, "beam_search_diversity_rate: expected a number, found 'nan'"),
    (REQUEST, {"top_p_decay": 0}, "top_p_decay: expected more than 0 and at most 1, found '0'"),
    (REQUEST, {"top_p_min": 2}, "top_p_min: expected more than 0 and at most 1, found '2'"),
    (REQUEST, {"top_p_reset_ids": -2}, "top_p_reset_ids: expected an integer of at least -1, found '-2'"),
    (REQUEST, {"random_seed": -1}, "random_seed: expected an integer of at least 0, found '-1'"),
    (REQUEST, {"start_ids_file": "none.csv"}, "none.csv: no such file"),
    (REQUEST, {"bad_words_file": "none.csv"}, "none.csv: no such file"),
    (REQUEST, {"stop_words_file": "none.csv"}, "none.csv: no such file"),
    (REQUEST, {"min_length": -1}, "min_length: expected an integer of at least 0"),
    (REQUEST, {"request_output_len": 0}, "request_output_len: expected an integer of at least 1"),
    (REQUEST, {"request_output_len": 1020}, "request_output_len=1020 new ones are more than the 1024 positions of the model"),
    (REQUEST, {"request_batch_size": 2000000000}, "are more than 2147483647"),
    (MODEL, {"head_num": 8}, "[classics_7m] head_num: expected 4, which is what the checkpoint"),
    (MODEL, {"size_per_head": 96}, "size_per_head: expected 64"),
    (MODEL, {"inter_size": 4096}, "inter_size: expected 1024"),
    (MODEL, {"vocab_size": 50432}, "vocab_size: expected 4096"),
    (MODEL, {"decoder_layers": 44}, "decoder_layers: expected 6"),
    (MODEL, {"rotary_embedding": 24}, "rotary_embedding: expected 16"),
    (MODEL, {"use_gptj_residual": 0}, "use_gptj_residual: expected 1"),
    (MODEL, {"end_id": -1}, "end_id: expected an integer of at least 0, found '-1'"),
    (MODEL, {"end_id": 4096}, "end_id: expected a token id below the vocabulary's 4096"),
    (MODEL, {"start_id": -1}, "start_id: expected a token id below the vocabulary's 4096"),
]


@pytest.mark.parametrize(("section", "keys", "message"), REFUSED, ids=["{}={}".format(*next(iter(keys.items()))) for _, keys, _ in REFUSED])
def test_what_the_ini_gets_wrong_is_named_in_one_line(job, section, keys, message):
    job.set(section, **keys)
    assert message in job.fails()


def test_model_facts_may_be_left_out(job):
    job.set(MODEL, **dict.fromkeys(("head_num", "size_per_head", "inter_size", "vocab_size", "decoder_layers", "rotary_embedding")))
    job.set(MODEL, use_gptj_residual=None, start_id=None)
    job.succeeds()


def test_unknown_keys_are_announced(job):
    job.set(REQUEST, min_lenght=4)
    assert "[request] min_lenght is no key that this program reads" in job.succeeds().stderr


def test_prompts_that_are_wrong_or_not_there_are_named(job):
    job.prompts([0, 790], [0, 4096])
    assert "start_ids.csv:2: expected ids below the vocabulary's 4096, found 4096" in job.fails()
    (job.folder / "start_ids.csv").write_text("0, 1, one\n")
    assert "start_ids.csv:1: field 3: expected a token id, found 'one'" in job.fails()
    (job.folder / "start_ids.csv").unlink()
    assert "start_ids.csv: no such file" in job.fails()


def test_an_ini_that_is_not_there_or_no_ini_is_named(job):
    job.ini.write_text("what?\n")
    assert ":1: expected name=value, found 'what?'" in job.fails()
    job.ini.write_bytes(bytes(range(256)) * 16)
    job.fails()
    job.ini.unlink()
    assert "gptneox_config.ini: no such file" in job.fails()


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2), (2, 3)])
def test_ranks_that_are_threads_write_the_same_out(job, tp, pp):
    job.succeeds()
    alone = job.out()
    job.set(INSTANCE, tensor_para_size=tp, pipeline_para_size=pp)
    assert f"Total ranks: {tp * pp}." in job.succeeds().stdout
    assert job.out() == alone


@pytest.mark.parametrize(("ranks", "pp"), [(2, 1), (4, 2)])
def test_under_mpirun_the_ranks_are_processes_and_write_the_same_out(job, ranks, pp):
    job.succeeds()
    alone = job.out()
    job.set(INSTANCE, pipeline_para_size=pp)
    done = job.succeeds(ranks)
    assert f"Total ranks: {ranks}." in done.stdout
    assert f"[INFO] Setting tensor_para_size to {ranks // pp}" in done.stdout
    assert job.out() == alone


def test_under_mpirun_an_error_ends_all_ranks(job):
    job.set(INSTANCE, pipeline_para_size=3)
    done = job.run(2)
    assert done.returncode != 0
    assert "pipeline_para_size: expected a divisor of the 2 MPI ranks, found '3'" in done.stderr


def test_an_out_that_cannot_be_written_is_an_error(job):
    (job.folder / "out").mkdir()
    done = job.run()
    assert done.returncode == 1
    assert done.stderr == "gptneox_example: out: cannot be written in the current directory\n"


def gpt_gemm(folder, *arguments):
    return subprocess.run([program("gpt_gemm"), *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=60)


def test_gpt_gemm_names_what_is_missing_and_writes_nothing(tmp_path):
    done = gpt_gemm(tmp_path, 8, 1, 32, 64, 96, 24576, 50432, 1, 2)
    assert done.returncode == 1
    assert done.stderr.startswith("gpt_gemm: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected 8 to 10 arguments, found 0"),
        ((1,) * 11, "expected 8 to 10 arguments, found 11"),
        ((0, 1, 32, 64, 96, 24576, 50432, 1), "batch_size: expected an integer of at least 1, found '0'"),
        ((8, 1, 32, 64, 96, 24576, 50432, "fp16"), "data_type: expected an integer from 0 to 2, found 'fp16'"),
        ((8, 1, 32, 64, 96, 24576, 50432, 1, 3), "head_num: expected a multiple of tensor_para_size 3, found 64"),
        ((8, 1, 32, 64, 96, 24576, 50432, 1, 1, 2), "is_append: expected an integer from 0 to 1, found '2'"),
    ],
)
def test_gpt_gemm_explains_its_arguments_and_exits_2_when_they_are_wrong(tmp_path, arguments, message):
    done = gpt_gemm(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f"gpt_gemm: {message}"
    assert "usage: gpt_gemm batch_size beam_width" in done.stderr
    assert "tensor_para_size" in done.stderr

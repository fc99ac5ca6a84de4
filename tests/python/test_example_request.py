# SPDX-License-Identifier: Apache-2.0
"""What the ini's request section and the csv files of words make gptneox_example do."""

import pytest

from example import INSTANCE, MODEL, REQUEST, TOOLS, Job, expected, rows_of
from neoxnative import Engine, SamplingParams

PROMPTS = rows_of(TOOLS / "start_ids.csv")[:3]
WIDTH = max(map(len, rows_of(TOOLS / "start_ids.csv"))) + 24


@pytest.fixture
def job(tmp_path):
    job = Job(tmp_path)
    job.set(REQUEST, request_batch_size=3, request_output_len=24)
    return job


@pytest.fixture(scope="module")
def engine():
    return Engine(dtype="float32")


def beams(engine, prompts, width, beam_width, **params):
    """Lines of `out` for a beam search, in the order of rows, then of beams."""
    params = SamplingParams(max_tokens=24, beam_width=beam_width, n=beam_width, ignore_eos=True, stop_token_ids=[0], **params)
    rows = []
    for prompt, output in zip(prompts, engine.generate(prompts, params), strict=True):
        rows += [prompt + made.token_ids for made in output.outputs]
    return [row + [0] * (width - len(row)) for row in rows]


@pytest.mark.parametrize(
    ("keys", "params"),
    [
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
        ({"repetition_penalty": 1.2, "presence_penalty": -0.5}, {"repetition_penalty": 1.2, "presence_penalty": -0.5}),
        (
            {"top_k": 0, "top_p": 0.9, "top_p_decay": 0.5, "top_p_min": 0.1, "top_p_reset_ids": 48, "random_seed": 0x11},
            {"temperature": 1, "top_p": 0.9, "top_p_decay": 0.5, "top_p_min": 0.1, "top_p_reset_id": 48, "seed": 17},
        ),
    ],
)
def test_penalties_and_the_decay_of_top_p_change_the_draws_as_in_python(job, engine, keys, params):
    job.set(REQUEST, **keys)
    job.succeeds()
    assert job.out() == expected(engine, PROMPTS, WIDTH, max_tokens=24, **params)
    assert job.out() != expected(engine, PROMPTS, WIDTH, max_tokens=24)


@pytest.mark.parametrize(
    ("keys", "params"),
    [
        ({}, {"length_penalty": 0}),
        ({"len_penalty": 2.0, "min_length": 4}, {"length_penalty": 2, "min_tokens": 4}),
        (
            {"beam_search_diversity_rate": 0.7, "repetition_penalty": 1.3},
            {"length_penalty": 0, "beam_search_diversity_rate": 0.7, "repetition_penalty": 1.3},
        ),
    ],
)
def test_beams_are_the_lines_of_their_prompt_and_what_python_finds(job, engine, keys, params):
    job.set(REQUEST, beam_width=3, **keys)
    done = job.succeeds()
    assert job.out() == beams(engine, PROMPTS, WIDTH, 3, **params)
    assert "request_batch_size 3 beam_width 3 " in done.stdout
    assert f"Writing {9 * WIDTH} elements" in done.stdout


def test_keys_of_beam_search_are_announced_where_there_is_none(job):
    job.set(REQUEST, len_penalty=1.0)
    assert "[request] len_penalty is of beam search, so it does nothing with beam_width 1" in job.succeeds().stderr


@pytest.mark.parametrize("width", [1, 3])
def test_bad_words_are_never_completed_and_stop_words_end_a_row(job, engine, width):
    job.set(REQUEST, beam_width=width)
    job.succeeds()
    free = [row[len(PROMPTS[0]) :] for row in job.out()[:1]][0]
    bad, stop = [[free[1]], free[4:6]], [free[8:10], [free[15]]]
    one, two, three, four = *bad[0], *bad[1], 0
    job.file("bad_words.csv", f"{one},{two},{three}, {four}\n1,3,-1,-1\n")
    job.file("stop_words.csv", f"{stop[0][0]}, {stop[0][1]}, {stop[1][0]}\n2, 3, -1\n")
    job.succeeds()
    rows = job.out()
    words = {"bad_words": bad, "stop": stop}
    if width == 1:
        assert rows == expected(engine, PROMPTS, WIDTH, max_tokens=24, **words)
    else:
        assert rows == beams(engine, PROMPTS, WIDTH, width, length_penalty=0, **words)
    assert all(one not in row[len(prompt) :] for prompt, row in zip(sum(([p] * width for p in PROMPTS), []), rows, strict=True))

    job.set(REQUEST, bad_words_file="", stop_words_file="")  # none
    job.succeeds()
    assert job.out()[0][len(PROMPTS[0]) :] == free


def test_files_may_be_named_and_are_looked_for_beside_the_ini_then_in_the_current_folder(job, engine):
    elsewhere = job.folder / "elsewhere"
    elsewhere.mkdir()
    (job.folder / "mine.csv").write_text("0, 790, 309\n")
    (elsewhere / "words.csv").write_text("48\n1\n")
    job.set(REQUEST, start_ids_file="mine.csv", bad_words_file="words.csv", stop_words_file=elsewhere / "words.csv", request_batch_size=0)
    job.folder = elsewhere
    job.succeeds()
    assert job.out() == expected(engine, [[0, 790, 309]], 27, max_tokens=24, bad_words=[[48]], stop=[[48]])


@pytest.mark.parametrize("name", ["bad_words", "stop_words"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n1\n", ":2: expected 2 fields, as on line 1, found 1"),
        ("1,2\n1,2,-1\n", ":2: expected 2 fields, as on line 1, found 3"),
        ("1,2\n2,1\n", ":2: field 2: expected an end from 3 to 2, found 1"),
        ("1,2\n0,2\n", ":2: field 1: expected an end from 1 to 2, found 0"),
        ("1,2\n-1,2\n", ":2: field 2: expected only -1 behind a -1, found 2"),
        ("1,2\n1,3\n", ":2: field 2: expected an end from 2 to 2, found 3"),
        ("1,two\n1,2\n", ":1: field 2: expected a token id, found 'two'"),
        ("1,\n1,2\n", ":1: field 2: expected a token id, found ''"),
        ("1,4096\n1,2\n", ":1: expected ids below the vocabulary's 4096, found 4096"),
        ("1,2\n", ": expected two lines, ids and where each phrase of them ends, found 1"),
        ("1\n1\n2\n1\n", ": expected two lines, ids and where each phrase of them ends, found 4"),
        ("", ": expected two lines, ids and where each phrase of them ends, found 0"),
    ],
)
def test_word_lists_that_are_wrong_are_named_with_their_line(job, name, text, message):
    job.file(f"{name}.csv", text)
    assert f"{name}.csv{message}" in job.fails()


def test_random_weights_of_the_inis_shape_need_no_checkpoint(job):
    job.set(INSTANCE, load_format="dummy", model_dir=None, data_type="fp16")
    job.set(
        MODEL, head_num=6, size_per_head=32, inter_size=320, vocab_size=5000, decoder_layers=3, rotary_embedding=24, use_gptj_residual=0
    )
    done = job.succeeds()
    assert "[WARNING] the weights are random" in done.stderr
    assert "head_num 6 size_per_head 32 " in done.stdout
    assert "decoder_layers 3 vocab_size 5000 " in done.stdout
    first = job.out()
    job.set(MODEL, inter_size=640)
    job.succeeds()
    assert job.out() != first
    job.set(MODEL, inter_size=None)  # FasterTransformer's four times the hidden size
    job.succeeds()
    job.set(INSTANCE, tensor_para_size=2)
    job.succeeds()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"head_num": None}, "[classics_7m] head_num is missing"),
        ({"head_num": 0}, "head_num: expected an integer of at least 1, found '0'"),
        ({"rotary_embedding": 65}, "rotary_embedding: expected 0 to size_per_head, 64, found '65'"),
        ({"use_gptj_residual": 2}, "use_gptj_residual: expected 0 or 1, found '2"),
        (
            {"size_per_head": 20},
            "gptneox_config.ini: [classics_7m]: the head size hidden_size / num_attention_heads is 20, expected a multiple of 8",
        ),
    ],
)
def test_a_shape_for_random_weights_is_complete_and_possible(job, keys, message):
    job.set(INSTANCE, load_format="dummy")
    job.set(MODEL, **keys)
    assert message in job.fails()


def test_the_device_is_that_of_the_ini(job):
    job.set(INSTANCE, device="cpu", enable_custom_all_reduce=1)
    assert job.succeeds().stdout.splitlines()[1].startswith("Device cpu (")


@pytest.mark.parametrize("variables", [{"FMHA_ENABLE": "ON"}, {"FMHA_ENABLE": "OFF", "CONTEXT_ATTENTION_BMM1_HALF_ACCUM": "ON"}])
@pytest.mark.parametrize("ranks", [None, 2])
def test_variables_of_cudas_attention_choose_nothing_on_a_cpu_and_it_is_said_once(job, variables, ranks):
    job.set(INSTANCE, device="cpu", tensor_para_size=ranks or 1)
    plain = job.succeeds(ranks)
    assert "[INFO] FMHA_ENABLE" not in plain.stdout
    rows = job.out()
    done = job.succeeds(ranks, **variables)
    assert done.stdout.count("choose CUDA's attention: the CPU has one, and uses it") == 1
    assert "attention" not in done.stderr
    assert job.out() == rows


def test_a_gemm_config_in_the_current_folder_is_read(job):
    job.set(INSTANCE, device="cpu")
    rows = (job.succeeds(), job.out())[1]
    job.file("gemm_config.in", "a header\n")
    assert "[WARNING] gemm_config is not used" in job.succeeds().stderr
    assert job.out() == rows

# SPDX-License-Identifier: Apache-2.0
"""Prompts that were learned, by the ini's keys: FasterTransformer's files beside the checkpoint, its tasks in turn."""

import numpy as np
import pytest

import models
import prompt_cases
from example import INSTANCE, MODEL, REQUEST, Job
from neoxnative import Engine, SamplingParams
from neoxnative.convert import to_ft

SHAPE = prompt_cases.MODELS[1]
PREFIXES, TABLES = ("short", "none", "long"), ("tuned", "none", "other")
PROMPTS = [models.prompt(60 + i, length, SHAPE.vocab).tolist() for i, length in enumerate((9, 4, 21, 6))]
FACTS = ("head_num", "size_per_head", "inter_size", "vocab_size", "decoder_layers", "rotary_embedding", "use_gptj_residual")
NEW = 12


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A HuggingFace folder, with the tasks' values in FasterTransformer's files for two ranks."""
    folder = models.write(SHAPE, tmp_path_factory.mktemp("model"))
    for name, values in prompt_cases.tasks(SHAPE).items():
        if name in PREFIXES and values is not None:
            for rank, part in enumerate(
                values.reshape(SHAPE.layers, 2, 2, SHAPE.heads // 2, *values.shape[3:]).transpose(2, 0, 1, 3, 4, 5)
            ):
                part.tofile(folder / f"model.prefix_prompt.{name}.weight.{rank}.bin")
        elif values is not None:
            values.tofile(folder / f"model.prompt_table.{name}.weight.bin")
    return folder


def make_job(folder, checkpoint, kind, tasks):
    job = Job(folder)
    job.prompts(*PROMPTS)
    job.set(INSTANCE, model_dir=checkpoint)
    job.set(REQUEST, request_batch_size=len(PROMPTS), request_output_len=NEW)
    job.set(MODEL, **dict.fromkeys(FACTS), prompt_learning_type=kind, num_tasks=len(tasks), prompt_learning_start_id=SHAPE.vocab)
    with job.ini.open("a") as ini:
        for k, name in enumerate(tasks):
            values = prompt_cases.tasks(SHAPE)[name]
            length = 0 if values is None else values.shape[3 if kind == 2 else 0]
            ini.write(f"\n[{MODEL}_task_{k}]\ntask_name={name}\nprompt_length={length}\n")
    return job


def expected(checkpoint, tasks, prompts=PROMPTS, beams=1, **how):
    engine = Engine(checkpoint, prompt_learning={name: prompt_cases.tasks(SHAPE)[name] for name in tasks})
    params = SamplingParams(
        max_tokens=NEW, temperature=0, ignore_eos=True, stop_token_ids=[0], beam_width=beams, n=beams, length_penalty=0, **how
    )
    given = [{"prompt_token_ids": ids, "task": tasks[i % len(tasks)]} for i, ids in enumerate(prompts)]
    width = max(map(len, prompts)) + NEW
    rows = []
    for ids, output in zip(prompts, engine.generate(given, params), strict=True):
        for made in output.outputs:
            row = [i for i in ids if i < SHAPE.vocab] + made.token_ids
            rows.append(row + [0] * (width - len(row)))
    return rows


@pytest.mark.parametrize(("kind", "tasks"), [(2, PREFIXES), (3, TABLES)])
@pytest.mark.parametrize(
    ("keys", "how"), [({}, {}), ({"beam_width": 2}, {"beams": 2}), ({"repetition_penalty": 1.4}, {"repetition_penalty": 1.4})]
)
def test_rows_take_the_tasks_in_turn(tmp_path, checkpoint, kind, tasks, keys, how):
    job = make_job(tmp_path, checkpoint, kind, tasks)
    job.set(REQUEST, **keys)
    job.succeeds()
    rows = job.out()
    assert rows == expected(checkpoint, tasks, **how)
    assert rows != expected(checkpoint, ["none"], **how)
    job.set(INSTANCE, tensor_para_size=2)
    job.succeeds()
    assert job.out() == rows


def test_ids_from_the_start_id_on_are_virtual_tokens_and_not_in_out(tmp_path, checkpoint):
    prompts = [[5, SHAPE.vocab + 1, 6, SHAPE.vocab, 7], *PROMPTS[1:]]
    job = make_job(tmp_path, checkpoint, 3, TABLES)
    job.prompts(*prompts)
    job.succeeds()
    assert job.out() == expected(checkpoint, TABLES, prompts)
    job.prompts([5, SHAPE.vocab + 9], *PROMPTS[1:])
    (tmp_path / "out").unlink()
    assert f"start_ids.csv:1: expected ids below {SHAPE.vocab + 9}, where task tuned's virtual tokens end" in job.fails()
    job.prompts([5], [SHAPE.vocab], *PROMPTS[2:])
    assert f"start_ids.csv:2: expected ids below the vocabulary's {SHAPE.vocab}, found {SHAPE.vocab}" in job.fails()


def test_a_task_without_a_prompt_takes_no_ids_for_virtual_ones(tmp_path, checkpoint):
    job = make_job(tmp_path, checkpoint, 3, TABLES)
    job.set(MODEL, prompt_learning_start_id=SHAPE.vocab - 9)
    prompts = [[i % 99 for i in ids] for ids in PROMPTS]
    prompts[1] = [SHAPE.vocab - 1, SHAPE.vocab - 2, 7]
    job.prompts(*prompts)
    job.succeeds()
    assert job.out()[1] == expected(checkpoint, TABLES, prompts)[1]


def test_the_files_type_is_that_of_the_folders_model_whatever_its_section(tmp_path, checkpoint):
    to_ft(checkpoint, tmp_path, dtype="float16")
    folder = tmp_path / "1-gpu"
    (folder / "config.ini").write_text((folder / "config.ini").read_text().replace("[gptneox]", "[another]"))
    for name, values in prompt_cases.tasks(SHAPE).items():
        if name in TABLES and values is not None:
            values.astype(np.float16).tofile(folder / f"model.prompt_table.{name}.weight.bin")
    job = make_job(tmp_path, folder, 3, TABLES)
    job.succeeds()
    job.set(INSTANCE, model_dir=checkpoint)
    half = job.out()
    job.succeeds()
    assert sum(a == b for a, b in zip(half, job.out(), strict=True)) >= 3  # rounding may turn one


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"prompt_learning_type": 1},
            "prompt_learning_type: expected 0 (none), 2 (prefix) or 3 (p/prompt-tuning): soft prompts (1) come with requests",
        ),
        ({"prompt_learning_type": 4}, "prompt_learning_type: expected 0 (none), 2 (prefix) or 3"),
        ({"num_tasks": 0}, "num_tasks: expected 1 or more with prompt_learning_type 2, found '0'"),
        ({"num_tasks": 4}, "task_name is missing"),
        ({"prompt_learning_type": 3}, "model.prompt_table.short.weight.bin"),
        ({"prompt_learning_start_id": -1}, "prompt_learning_start_id: expected an id, 0 or more, found '-1'"),
    ],
)
def test_what_is_wrong_with_tasks_is_named(tmp_path, checkpoint, keys, message):
    job = make_job(tmp_path, checkpoint, 2, PREFIXES)
    job.set(MODEL, **keys)
    assert message in job.fails()


def test_virtual_tokens_count_among_the_models_positions(tmp_path, checkpoint):
    job = make_job(tmp_path, checkpoint, 2, PREFIXES)
    job.set(REQUEST, request_output_len=SHAPE.max_positions - 40)
    assert "start_ids.csv:3: 58 ids and request_output_len=152 new ones are more than the 192 positions of the model" in job.fails()

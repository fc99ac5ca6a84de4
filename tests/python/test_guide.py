# SPDX-License-Identifier: Apache-2.0
"""FasterTransformer's guide, command by command, on the converted demo model: tools/README.md with other paths."""

import json
import shutil
import subprocess
import sys

import pytest

import mpi
from example import INSTANCE, MODEL, REQUEST, TOOLS, Job, program, rows_of
from neoxnative.engine import DEMO_MODEL

TEXTS = ["It was a dark and stormy night", "Alice opened the door and"]


def run(*command, cwd=None):
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=mpi.environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tool(name, *arguments, **how):
    return run(sys.executable, TOOLS / name, *arguments, **how)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with 1-gpu and 2-gpu."""
    folder = tmp_path_factory.mktemp("models")
    for ranks in (1, 2):
        tool("huggingface_gptneox_convert.py", "-i", DEMO_MODEL, "-o", folder, "-i_g", ranks, "-m_n", "classics_7m")
    return folder


@pytest.fixture
def job(tmp_path, models):
    """Prompts made by hftokenizer.py, for the model as it was converted."""
    job = Job(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(TEXTS) + "\n")
    tool("hftokenizer.py", tmp_path / "prompts.txt", "--out-file", tmp_path / "start_ids.csv", "--tokenizer", DEMO_MODEL / "tokenizer.json")
    job.set(INSTANCE, model_dir=models)
    job.set(REQUEST, request_batch_size=2, request_output_len=24)
    return job


def decoded(job):
    return tool("hftokenizer.py", job.folder / "out", "--tokenizer", DEMO_MODEL / "tokenizer.json").removesuffix("\n").split("\n---\n")


def said(run_cli, *options):
    """What `neoxnative generate` makes of the texts, sample by sample."""
    texts = []
    for text in TEXTS:
        output = json.loads(run_cli("generate", text, "--json", "--max-tokens", "24", "--temperature", "0", *options).stdout)
        texts += [text + made["text"] for made in output["outputs"]]
    return texts


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        ({}, ()),
        ({"repetition_penalty": 1.3, "min_length": 20}, ("--repetition-penalty", "1.3", "--min-tokens", "20")),
        ({"beam_width": 3, "len_penalty": 1.0}, ("--beam-width", "3", "--n", "3", "--length-penalty", "1")),
    ],
)
def test_out_of_the_converted_model_decodes_to_what_generate_says(job, run_cli, keys, options):
    job.set(REQUEST, **keys)
    job.succeeds()
    assert [text.rstrip() for text in decoded(job)] == [text.rstrip() for text in said(run_cli, *options)]


@pytest.mark.parametrize("width", [1, 2])
def test_words_in_csv_files_are_the_command_lines_strings(job, run_cli, width):
    job.set(REQUEST, beam_width=width)
    bad, stop = " very", " was"
    ids = {}
    for word in (bad, stop):
        file = job.folder / "word.txt"
        file.write_text(f"night{word}\n")
        made = job.folder / "word.csv"
        tool("hftokenizer.py", file, "--action", "tokenize", "--out-file", made, "--tokenizer", DEMO_MODEL / "tokenizer.json")
        ids[word] = rows_of(made)[0][-1]
    job.file("bad_words.csv", f"{ids[bad]}\n1\n")
    job.file("stop_words.csv", f"{ids[stop]}\n1\n")
    job.succeeds()
    options = (
        "--bad-words",
        bad,
        "--stop",
        stop,
        "--include-stop-str-in-output",
        "--beam-width",
        str(width),
        "--n",
        str(width),
        "--length-penalty",
        "0",
    )
    expected = said(run_cli, *options)
    assert decoded(job) == expected
    assert all(text.endswith(stop) for text in expected[:1])
    assert all(bad not in text for text in expected)


def test_gptneox_example_alone_and_under_mpirun_with_an_ini_and_without_write_the_same_out(job):
    job.succeeds()
    alone = job.out()
    job.set(INSTANCE, tensor_para_size=2)  # from 2-gpu
    job.succeeds(2)
    assert job.out() == alone

    run(program("gptneox_example"), cwd=job.folder)
    demo = job.out()
    run(*mpi.command(2, program("gptneox_example")), cwd=job.folder)
    assert job.out() == demo


@pytest.mark.parametrize(("tp", "pp", "folder"), [(1, 1, "1-gpu"), (2, 1, "2-gpu"), (1, 2, "1-gpu"), (2, 2, "2-gpu")])
def test_the_scripts_run_commands_print_the_same_texts(job, models, tp, pp, folder):
    common = ("--tokenizer_path", DEMO_MODEL, "--sample_input_file", job.folder / "prompts.txt", "--data_type", "fp32")
    line = [
        sys.executable,
        TOOLS / "gptneox_example.py",
        f"--tensor_para_size={tp}",
        f"--pipeline_para_size={pp}",
        f"--ckpt_path={models / folder}",
    ]
    plain = tool("gptneox_example.py", "--ckpt_path", DEMO_MODEL, *common)
    found = run(*(line if tp * pp == 1 else mpi.command(tp * pp, *line)), *common)
    assert "[INFO] batch 1, beam 0:\n[Context]\nAlice opened the door and\n" in found
    assert found.partition("[INFO] batch size")[2] == plain.partition("[INFO] batch size")[2]


def test_the_shape_in_the_ini_is_checked_against_the_converted_model(job):
    job.set(MODEL, inter_size=4096)
    assert "inter_size: expected 1024, which is what the checkpoint" in job.fails()
    assert "1-gpu" in job.fails()
    assert not (job.folder / "out").exists()


def test_of_converted_folders_that_of_the_ranks_is_taken_then_any_then_the_folder_itself(job, models, tmp_path):
    """Which one is told by what is missing in the others."""
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    job.set(INSTANCE, model_dir="models")
    (folder / "2-gpu" / "model.wte.bin").unlink()
    job.succeeds()
    job.set(INSTANCE, tensor_para_size=2)
    (job.folder / "out").unlink()
    assert str(folder / "2-gpu" / "model.wte.bin") in job.fails()
    shutil.rmtree(folder / "2-gpu")
    job.succeeds()
    job.set(INSTANCE, model_dir="models/1-gpu")
    job.succeeds()
    job.set(INSTANCE, model_dir=DEMO_MODEL)
    job.succeeds()

# SPDX-License-Identifier: Apache-2.0
"""The command line: what it prints, and its exit codes."""

import subprocess
import sys

import pytest

import neoxnative
from neoxnative import Engine, SamplingParams
from neoxnative.cli import main

PROMPT = "It was a dark and stormy night"


def test_generate_prints_prompt_and_continuation_the_same_each_time(capsys):
    assert main(["generate", PROMPT, "--max-tokens", "12"]) == 0
    wanted = Engine().generate(PROMPT, SamplingParams(max_tokens=12, temperature=0.8, top_p=0.95, seed=0))[0].outputs[0].text
    assert capsys.readouterr().out == PROMPT + wanted + "\n"


def test_stop_token_ids_may_be_repeated(capsys):
    assert main(["generate", "--stop-token-ids", "13", "--stop-token-ids", "15", "--max-tokens", "4", PROMPT]) == 0
    assert capsys.readouterr().out.startswith(PROMPT)


def test_a_prompt_comes_from_stdin():
    command = [sys.executable, "-m", "neoxnative", "generate", "-", "--max-tokens", "1"]
    done = subprocess.run(command, input="Alice opened\n", capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Alice opened")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["generate", "--max-tokens", "x"], ["generate", "--temperature", "-1"]])
def test_a_usage_error_is_one_line_and_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("neoxnative: error: ")
    assert error.count("\n") == 1


def test_another_error_is_one_line_and_exit_code_1_and_a_traceback_on_demand(capsys):
    assert main(["generate", "--model", "no/such/folder"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("neoxnative: error: ") and "no/such/folder" in error and error.count("\n") == 1
    assert main(["generate", "--model", "no/such/folder", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_info_and_doctor_tell_of_the_demo_model_and_of_the_build(capsys):
    assert main(["info"]) == 0
    assert "6,836,224" in capsys.readouterr().out
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert neoxnative.__version__ in out and PROMPT in out
    assert all(line in out for line in neoxnative.build_info())


def test_help_documents_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "-h"])
    out = capsys.readouterr().out
    assert "sampling:" in out and "engine:" in out and "None" not in out

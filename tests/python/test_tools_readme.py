# SPDX-License-Identifier: Apache-2.0
"""tools/README.md tells of every key and argument, and names tests that are there."""

import importlib.util
import re

import pytest

from example import ROOT, TOOLS

OF_TASKS = {"task_name", "prompt_length"}  # sections of their own
TABLES = (TOOLS / "README.md").read_text(encoding="utf-8")


def rows(heading):
    """The cells of the table under a heading."""
    section = TABLES.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and "|---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def named(cell):
    return set(re.findall(r"`(-*\w+)`", cell))


@pytest.mark.parametrize("heading", ["Keys of the ini", "Arguments of gptneox_example.py"])
def test_every_row_names_tests_that_are_there(heading):
    defined = set(
        re.findall(r"^def (test_\w+)", "".join(path.read_text() for path in (ROOT / "tests" / "python").glob("test_*.py")), re.MULTILINE)
    )
    table = rows(heading)
    assert len(table) > 8
    for row in table:
        assert named(row[-1]), row
        assert named(row[-1]) <= defined, row


def test_every_key_that_the_program_reads_is_in_the_table():
    source = (TOOLS / "example_job.cpp").read_text()
    read = set()
    for block in re.findall(r"(?:warn_of_unknown\(ini, .*?|kModelKeys\[\] = )\{(.*?)\}", source, re.DOTALL):
        read |= set(re.findall(r'"(\w+)"', block))
    assert {"top_k", "model_dir", "end_id", "inter_size"} <= read
    assert set.union(*(named(row[1]) for row in rows("Keys of the ini"))) == read | OF_TASKS


def test_every_argument_of_the_script_is_in_the_table():
    spec = importlib.util.spec_from_file_location("script", TOOLS / "gptneox_example.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    known = {option for action in script.parser()._actions for option in action.option_strings} - {"-h", "--help"}
    assert set.union(*(named(row[0]) for row in rows("Arguments of gptneox_example.py"))) == known


def test_keys_in_the_demos_ini_are_those_of_the_table():
    """The commented ones too."""
    written = set(re.findall(r"^;?(\w+)=", (TOOLS / "gptneox_config.ini").read_text(), re.MULTILINE)) - {"name"}
    assert written == set.union(*(named(row[1]) for row in rows("Keys of the ini")))

# SPDX-License-Identifier: Apache-2.0
"""What `cmake --install` leaves: programs that run from there, and a package for C++ programs. NEOX_BUILD names the build folder."""

import os
import shutil
import subprocess

import pytest

import mpi
from example import BIN, ROOT, program, rows_of
from neoxnative import Engine, SamplingParams
from neoxnative.engine import DEMO_MODEL

PROMPT = rows_of(ROOT / "tools" / "start_ids.csv")[0]


def run(*command, **how):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, **how)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """An installed copy, away from sources and build."""
    program("gptneox_example")
    if not (BIN / "libneox.so").exists():
        pytest.skip(f"{BIN / 'libneox.so'} is not built")
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    folder = tmp_path_factory.mktemp("prefix")
    done = run("cmake", "--install", BIN.parent, "--prefix", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_a_program_is_built_against_the_installed_package_outside_the_tree(prefix, tmp_path, compiler):
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    source = tmp_path / "source"
    shutil.copytree(ROOT / "tools" / "embed", source)
    build = tmp_path / "build"
    made = run(
        "cmake",
        "-S",
        source,
        "-B",
        build,
        f"-DCMAKE_PREFIX_PATH={prefix}",
        f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_CXX_FLAGS=-Wall -Werror",
    )
    assert made.returncode == 0, made.stderr
    made = run("cmake", "--build", build)
    assert made.returncode == 0, made.stdout + made.stderr

    done = run(build / "embed", DEMO_MODEL, *PROMPT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = Engine(dtype="auto", model=DEMO_MODEL).generate([PROMPT], SamplingParams(max_tokens=12, temperature=0, ignore_eos=True))[0]
    lines = done.stdout.splitlines()
    assert lines[0].startswith("6 layers on ")
    assert lines[1] == "cancelled after 4 tokens"
    assert [int(i) for i in lines[2].split()] == expected.outputs[0].token_ids
    assert lines[3] == "invalid: max_tokens is -1, expected 1 or more, or 0 with prompt_logprobs"

    refused = run(build / "embed", tmp_path / "nothing", 1)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"embed: {tmp_path / 'nothing'}")


def test_the_installed_example_runs_its_demo_from_any_folder(prefix, tmp_path):
    done = run(prefix / "bin" / "gptneox_example", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out").read_text().splitlines()) == 8


@pytest.mark.parametrize("called", ["by its path", "by its name", "from its folder", "from the folder above"])
def test_the_installed_example_finds_its_mpi(prefix, tmp_path, called):
    alone = tmp_path / "alone"
    alone.mkdir()
    assert run(prefix / "bin" / "gptneox_example", cwd=alone).returncode == 0
    program, folder, environment = prefix / "bin" / "gptneox_example", tmp_path, mpi.environment()
    if called == "by its name":
        program, environment = "gptneox_example", mpi.environment(PATH=f"{prefix / 'bin'}:{os.environ['PATH']}")
    elif called == "from its folder":
        program, folder = "./gptneox_example", prefix / "bin"
    elif called == "from the folder above":
        program, folder = "bin/gptneox_example", prefix
    done = run(*mpi.command(2, program), cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Total ranks: 2." in done.stdout
    assert (folder / "out").read_text() == (alone / "out").read_text()


def test_what_is_installed_names_neither_sources_nor_build(prefix):
    for file in prefix.rglob("*"):
        if file.suffix in (".cmake", ".h", ".ini", ".csv"):
            text = file.read_text(encoding="utf-8")
            assert str(ROOT) not in text, file
            assert str(BIN.parent) not in text, file

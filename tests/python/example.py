# SPDX-License-Identifier: Apache-2.0
"""gptneox_example as tests run it. NEOX_BUILD names the build folder, else build/."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import mpi
from neoxnative import SamplingParams
from neoxnative.engine import DEMO_MODEL

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("NEOX_BUILD", ROOT / "build")).resolve() / "bin"
TOOLS = ROOT / "tools"
INSTANCE, REQUEST, MODEL = "ft_instance_hyperparameter", "request", "classics_7m"


def program(name):
    path = BIN / name
    if not path.exists():
        pytest.skip(f"{path} is not built")
    return path


def rows_of(file):
    return [[int(i) for i in line.split(",")] for line in Path(file).read_text().splitlines()]


class Job:
    """A folder with the demo's ini and csv, to change and to run in."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("gptneox_config.ini", "start_ids.csv"):
            shutil.copy(TOOLS / name, folder)
        self.ini = folder / "gptneox_config.ini"
        self.set(INSTANCE, model_dir=DEMO_MODEL)
        self.set(REQUEST, top_k=1, top_p=0.0, temperature=1.0, request_output_len=32)  # greedy and short

    def set(self, section, **keys):
        """Replaces keys of the ini; None takes one away."""
        head, found, tail = self.ini.read_text().partition(f"[{section}]\n")
        body, bracket, rest = tail.partition("\n[")
        for key, value in keys.items():
            body, count = re.subn(rf"^{key}=.*$", "" if value is None else f"{key}={value}", body, flags=re.MULTILINE)
            if count == 0 and value is not None:
                body += f"\n{key}={value}\n"
        self.ini.write_text(head + found + body + bracket + rest)

    def prompts(self, *rows):
        (self.folder / "start_ids.csv").write_text("".join(", ".join(map(str, row)) + "\n" for row in rows))

    def file(self, name, text):
        (self.folder / name).write_text(text)

    def run(self, ranks=None, **env):
        line = [program("gptneox_example"), self.ini]
        if ranks is not None:
            line = mpi.command(ranks, *line)
        clean = {k: v for k, v in mpi.environment().items() if k not in ("FMHA_ENABLE", "CONTEXT_ATTENTION_BMM1_HALF_ACCUM")}
        return subprocess.run(line, cwd=self.folder, env=clean | env, capture_output=True, text=True, timeout=300)

    def out(self):
        """The ids of `out`, its layout checked to the byte."""
        text = (self.folder / "out").read_text()
        rows = [[int(i) for i in line.split()] for line in text.splitlines()]
        assert text == "".join("".join(f"{i} " for i in row) + "\n" for row in rows)
        assert len({len(row) for row in rows}) == 1
        return rows

    def succeeds(self, ranks=None, **env):
        done = self.run(ranks, **env)
        assert done.returncode == 0, done.stderr
        return done

    def fails(self, **env):
        done = self.run(**env)
        assert done.returncode == 1, done
        assert done.stderr.startswith("gptneox_example: ")
        assert done.stderr.count("\n") == 1, "one line"
        assert not (self.folder / "out").exists()
        return done.stderr


def expected(engine, prompts, width, end_id=0, **params):
    params = {"temperature": 0, "max_tokens": 32, "ignore_eos": True, "stop_token_ids": [end_id]} | params
    outputs = engine.generate(prompts, SamplingParams(**params))
    rows = [prompt + output.outputs[0].token_ids for prompt, output in zip(prompts, outputs, strict=True)]
    return [row + [end_id] * (width - len(row)) for row in rows]

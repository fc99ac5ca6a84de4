# SPDX-License-Identifier: Apache-2.0
"""What calls may cost beyond what they return."""

import subprocess
import sys

import pytest

from models import Model

CHILD = """
import sys
import numpy as np
from neoxnative import Engine, SamplingParams

def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024

def forward(length):
    return engine.forward(np.zeros((1, length), np.int32)).nbytes

def score(length):
    engine.score([[1] * length])
    return 0  # a thousand numbers: next to nothing

def prompt_logprobs(length):
    engine.generate([[1] * length], SamplingParams(max_tokens=1, prompt_logprobs=20))
    return 0  # twenty-one entries for each token: a few megabytes, within the allowance

call = {"forward": forward, "score": score, "prompt_logprobs": prompt_logprobs}[sys.argv[2]]
engine = Engine(sys.argv[1], dtype="float32")
call(8)  # whatever is allocated once
try:
    open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts anew
except OSError:
    pass
before = status("VmRSS")
returned = call(1000)
print(status("VmHWM") - before, returned)
"""


@pytest.mark.parametrize("call", ["forward", "score", "prompt_logprobs"])
def test_a_call_on_a_large_vocabulary_needs_no_more_than_its_result_and_64_megabytes(folder_of, call):
    model = Model(heads=2, head_dim=8, vocab=50432)
    run = subprocess.run([sys.executable, "-c", CHILD, folder_of(model), call], capture_output=True, text=True, check=True)
    grown, returned = map(int, run.stdout.split())
    assert returned == (1000 * model.vocab * 4 if call == "forward" else 0)
    assert grown <= returned + 64 * 2**20

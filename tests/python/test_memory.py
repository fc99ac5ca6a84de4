# SPDX-License-Identifier: Apache-2.0
"""What forward() may cost beyond the array it returns."""

import subprocess
import sys

from models import Model

CHILD = """
import sys
import numpy as np
from neoxnative import Engine

def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024

engine = Engine(sys.argv[1], dtype="float32")
engine.forward(np.zeros((1, 8), np.int32))  # whatever is allocated once
try:
    open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts anew
except OSError:
    pass
before = status("VmRSS")
logits = engine.forward(np.zeros((1, 1000), np.int32))
print(status("VmHWM") - before, logits.nbytes)
"""


def test_forward_needs_no_more_than_its_result_and_64_megabytes(folder_of):
    model = Model(heads=2, head_dim=8, vocab=50432)
    run = subprocess.run([sys.executable, "-c", CHILD, folder_of(model)], capture_output=True, text=True, check=True)
    grown, returned = map(int, run.stdout.split())
    assert returned == 1000 * model.vocab * 4
    assert grown <= returned + 64 * 2**20

# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import models
from browsing import Visits, chromium

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the hub; test_hub.py asks a stand-in
DATA = Path(__file__).resolve().parent.parent / "data"


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """folder_of(model, **how) -> the model's HuggingFace folder, written once."""
    made = {}

    def folder(model, **how):
        key = (model, *sorted(how.items()))
        if key not in made:
            made[key] = str(models.write(model, tmp_path_factory.mktemp("model"), **how))
        return made[key]

    return folder


@pytest.fixture(scope="session")
def goldens():
    with np.load(DATA / "goldens.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def cpu_isas():
    """The kernels that this machine must be able to run, by its own account."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    isas = ["generic"]
    if {"avx2", "fma", "f16c"} <= flags:
        isas.append("avx2")
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        isas.append("avx512")
        if "avx512_vnni" in flags:
            isas.append("avx512vnni")
    return isas


@pytest.fixture(scope="session")
def run_cli():
    """run_cli("generate", ...) -> the finished process of the command line."""

    def run(*arguments, check=True, **how):
        command = [sys.executable, "-m", "neoxnative", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=check, **how)

    return run


@pytest.fixture(scope="module")  # and no longer: Playwright has an event loop on this thread
def browser():
    with chromium() as launched:
        yield launched


@pytest.fixture
def opened(browser):
    """opened(server, **how) -> its page in the browser: see Visits."""
    visits = Visits(browser)
    yield visits
    visits.close()
    assert visits.wrong == []

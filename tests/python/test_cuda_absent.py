# SPDX-License-Identifier: Apache-2.0
"""What Engine says where there is no CUDA to use: each reason in words of its own, and device "auto" takes the CPU."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import neoxnative
from models import Model
from neoxnative import _core

TINY = Model(seed=1, heads=2, head_dim=16, max_positions=64)
PACKAGE = Path(neoxnative.__file__).parent
OLD_DRIVER = """
#include <string.h>
int cuDriverGetVersion(int *version) { return *version = 12040, 0; }
int cuInit(unsigned flags) { return 0; }
int other(void) { return 999; }
int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long flags, void *status) {
  *found = strcmp(name, "cuDriverGetVersion") == 0 ? (void *)cuDriverGetVersion
           : strcmp(name, "cuInit") == 0           ? (void *)cuInit
           : strcmp(name, "cuGetProcAddress") == 0 ? (void *)cuGetProcAddress_v2
                                                   : (void *)other;
  return 0;
}
"""
OPEN = """
import os, sys
from neoxnative import Engine
print(Engine(sys.argv[1], kv_cache_memory=2**24).info.device)
try:
    Engine(sys.argv[1], device="cuda", kv_cache_memory=2**24)
except NotImplementedError as error:
    print(error)
"""


def opened(folder, **environment):
    """The device that "auto" takes in a process of its own, and what device "cuda" is refused with."""
    command = [sys.executable, "-c", OPEN, folder]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    device, _, message = done.stdout.partition("\n")
    return device, message


def has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.fixture
def plugin():
    if not list(PACKAGE.glob("libneox_cuda*")):
        pytest.skip("this build has no CUDA plugin")


@pytest.fixture
def old_driver(tmp_path):
    """A folder with a libcuda.so.1 for CUDA 12.4."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "driver.c").write_text(OLD_DRIVER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "driver.c"], check=True)
    return tmp_path


def test_a_plugin_that_is_missing(folder_of, tmp_path):
    copy = shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("libneox_cuda*", "models", "__pycache__"))
    needed = [path for path in sys.path if path.endswith("-packages")]
    device, message = opened(folder_of(TINY), PYTHONPATH=":".join([str(tmp_path), *needed]))
    assert device == "cpu"
    assert message.startswith(f"device 'cuda' is not available: {copy} has no libneox_cuda.so; this build: cuda: o")


@pytest.mark.skipif(bool(list(PACKAGE.glob("libneox_cuda*"))), reason="this build has the CUDA plugin")
def test_a_gpu_is_not_measured_without_the_plugin():
    with pytest.raises(NotImplementedError, match=r"has no libneox_cuda\.so"):
        _core.gpu_read_bandwidth()
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        _core.gpu_matmul_peak("int8")


@pytest.mark.skipif(bool(list(PACKAGE.glob("libneox_cuda*"))), reason="this build has the CUDA plugin")
def test_ranks_on_gpus_need_the_plugin_too(folder_of):
    assert (_core.gpu_count(), _core.gpu_report()) == (0, [])
    with pytest.raises(NotImplementedError, match="device 'cuda' is not available"):
        neoxnative.Engine(folder_of(TINY), device="cuda", tensor_parallel_size=2)
    for ranks in (1, 2):
        with pytest.raises(ValueError, match="devices names GPUs, but the ranks run on CPUs: CUDA sees 0 GPUs here"):
            neoxnative.Engine(folder_of(TINY), devices=[0] * ranks, tensor_parallel_size=ranks)
    assert neoxnative.Engine(folder_of(TINY), tensor_parallel_size=2).info.device == "cpu"


def test_a_driver_that_is_too_old(folder_of, old_driver, plugin):
    device, message = opened(
        folder_of(TINY), LD_LIBRARY_PATH=f"{old_driver}:{os.environ.get('LD_LIBRARY_PATH', '')}", PYTHONPATH=":".join(sys.path)
    )
    assert device == "cpu"
    assert "the NVIDIA driver is for CUDA 12.4, this build needs one for CUDA 13.0 or later" in message


def test_a_gpu_that_is_not_there(folder_of, plugin):
    device, message = opened(folder_of(TINY), CUDA_VISIBLE_DEVICES="", PYTHONPATH=":".join(sys.path))
    assert device == "cpu"
    assert ("there is no GPU that CUDA sees (CUDA_VISIBLE_DEVICES may hide it)" if has_driver() else "there is no NVIDIA driver") in message

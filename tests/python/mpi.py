# SPDX-License-Identifier: Apache-2.0
"""Jobs under mpirun: which one is here, and how its ranks are started. NEOX_MPIRUN names it, else the first on the PATH is taken."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

import neoxnative

MPIRUN = os.environ.get("NEOX_MPIRUN", "mpirun")
JOB = Path(__file__).with_name("mpi_job.py")
DEVICE = os.environ.get("NEOX_DEVICE", "cpu")
SHARED = os.environ.get("NEOX_SHARE_GPU") == "1"


def most_ranks():
    """That the machine has a place for."""
    return 12 if DEVICE == "cpu" or SHARED else neoxnative._core.gpu_count()


def placed(ranks):
    """Where an engine's ranks of this machine are, in Engine's arguments."""
    return {"device": DEVICE, "devices": [0] * ranks if SHARED else None} | ({"kv_cache_memory": 2**28} if DEVICE == "cuda" else {})


def launcher():
    """mpirun's name and what it needs to start more ranks than cores, or a skip that says what is missing."""
    build = next(line for line in neoxnative.build_info() if line.startswith("mpi:"))
    if not build.startswith("mpi: on"):
        pytest.skip(build)
    if shutil.which(MPIRUN) is None:
        pytest.skip(f"there is no {MPIRUN}")
    pytest.importorskip("mpi4py")
    said = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, check=True).stdout.replace("OpenRTE", "Open MPI")
    family = "Open MPI" if "Open MPI" in said or "Open RTE" in said else "MPICH"
    if family not in build:
        pytest.skip(f"{MPIRUN} is of {family}, {build}")
    return family


def command(ranks, *program, recovery=False):
    if launcher() == "Open MPI":
        options = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", *(["--enable-recovery"] if recovery else [])]
    else:
        options = ["-disable-auto-cleanup"] if recovery else []
    return [MPIRUN, *options, "-n", str(ranks), *map(str, program)]


def environment(**more):
    """Without the variables of an mpirun that may have started the tests themselves."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMI_", "PMIX_"))} | more


@contextmanager
def started(ranks, *arguments, recovery=False):
    """mpi_job.py on so many ranks: the running mpirun, and the folder of the ranks' results."""
    line = command(ranks, sys.executable, JOB, *arguments, recovery=recovery)
    with tempfile.TemporaryDirectory() as results:
        env = environment(NEOX_RESULTS=results)
        # Files, for the ranks may outlive mpirun, and MPICH's ends the job more often when it loses a rank and writes to /dev/null.
        with (
            Path(results, "stdout").open("w") as output,
            Path(results, "stderr").open("w") as error,
            subprocess.Popen(line, stdout=output, stderr=error, text=True, env=env) as process,
        ):
            try:
                yield process, Path(results)
            finally:
                process.kill()


def results_of(folder):
    """What the ranks left there, in the order of ranks."""
    files = sorted(folder.glob("rank*"), key=lambda path: int(path.name[4:]))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def run(ranks, *arguments, recovery=False, timeout=120):
    """What the ranks of a job left, what they wrote to stderr, and its exit code."""
    with started(ranks, *arguments, recovery=recovery) as (process, folder):
        try:
            process.wait(timeout + float(os.environ.get("NEOX_IDLE", 0)))
        except subprocess.TimeoutExpired:
            process.terminate()
            raise
        return SimpleNamespace(ranks=results_of(folder), stderr=(folder / "stderr").read_text(), returncode=process.returncode)

# SPDX-License-Identifier: Apache-2.0
"""Several ranks, threads or processes under mpirun: the same texts as one rank, logits to 1e-5, and faults that end all with a reason.

They are on the CPU; NEOX_DEVICE=cuda puts each on a GPU of its own, and NEOX_SHARE_GPU=1 all on the first one."""

import importlib.util
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mpi
import prompt_cases
from models import Model
from neoxnative import Engine, SamplingParams

LAYOUTS = [(tp, pp) for tp in (1, 2, 4) for pp in (1, 2, 3) if 1 < tp * pp <= mpi.most_ranks()]
MODELS = {  # vocabularies that no number of ranks divides
    "parallel": Model(seed=11, heads=4, head_dim=16, layers=5, vocab=131),
    "sequential": Model(seed=12, heads=4, head_dim=16, layers=5, vocab=131, parallel_residual=False),
}


def job():
    """mpi_job, which without mpi4py cannot be imported."""
    pytest.importorskip("mpi4py")
    spec = importlib.util.spec_from_file_location("mpi_job", mpi.JOB)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def job_outcome(engine):
    return job().outcome(engine)


def check_same(got, expected):
    assert got["ids"] == expected["ids"]
    np.testing.assert_allclose(got["score"], expected["score"], rtol=1e-5)
    difference = np.subtract(got["logits"], expected["logits"])
    assert np.linalg.norm(difference) <= 1e-5 * np.linalg.norm(expected["logits"])


@pytest.fixture(scope="module", params=MODELS)
def model(request, folder_of):
    folder = folder_of(MODELS[request.param])
    return folder, job_outcome(Engine(folder, device=mpi.DEVICE))


@pytest.mark.parametrize(("tp", "pp"), LAYOUTS)
def test_threads_give_what_one_rank_gives(model, tp, pp):
    folder, expected = model
    engine = Engine(folder, tensor_parallel_size=tp, pipeline_parallel_size=pp, max_num_batched_tokens=48, **mpi.placed(tp * pp))
    check_same(job_outcome(engine), expected)
    assert (engine.info.world_size, engine.info.num_threads) == (tp * pp, 1)
    assert engine.info.ranks.startswith("threads; ")


@pytest.mark.parametrize(("tp", "pp"), LAYOUTS)
def test_processes_give_what_one_rank_gives_on_every_rank(model, tp, pp):
    folder, expected = model
    done = mpi.run(tp * pp, "same", folder, tp, pp)
    assert done.returncode == 0, done.stderr
    assert [got["rank"] for got in done.ranks] == list(range(tp * pp))
    for got in done.ranks:
        check_same(got, expected)


@pytest.mark.skipif(mpi.most_ranks() < 4, reason="there are fewer than 4 GPUs")
def test_rank_0_serves_by_itself_while_the_others_follow(model):
    folder, expected = model
    done = mpi.run(4, "served", folder, 2, 2)
    assert done.returncode == 0, done.stderr
    assert [got["ids"] for got in done.ranks] == [expected["ids"]] * 4


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2)])
def test_learned_prompts_are_continued_alike_by_processes(folder_of, tp, pp):
    folder = folder_of(prompt_cases.MODELS[0])
    engine = Engine(folder, device=mpi.DEVICE, prompt_learning=prompt_cases.tasks(prompt_cases.MODELS[0]))
    done = mpi.run(2, "learned", folder, tp, pp)
    assert done.returncode == 0, done.stderr
    assert [got["ids"] for got in done.ranks] == [job().learned_outcome(engine)] * 2


def test_calls_that_differ_raise_on_every_rank_and_the_engine_lives_on(model):
    done = mpi.run(2, "different", model[0], 2, 1)
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        errors = [got["error"] for got in done.ranks if got["rank"] == rank]
        assert len(errors) == 3
        assert "rank 0 has prompts: [1], rank 1 has prompts: [2]" in errors[0]
        assert "rank 0 has call: generate, rank 1 has call: score" in errors[1]
        assert "is 1000000, expected 0 to 130" in errors[2]


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("kill", "no sign of life"),
        ("kill_soon", "no sign of life|cannot receive from rank 1"),  # MPI may notice first
        ("stop", "no sign of life"),
        ("sleep", r"waited 4 s \(comm_timeout\) for rank 1 in vain, in call: generate"),
        ("stop_soon", "no sign of life"),
        ("throw", "whose engine is gone, in call: generate"),
    ],
)
@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2)])
def test_a_rank_that_is_lost_ends_the_others_by_themselves_within_the_time_out(folder_of, fault, what, tp, pp):
    model = folder_of(MODELS["parallel"])
    with mpi.started(2, fault, model, tp, pp, recovery=True) as (process, folder):
        begin = time.monotonic()
        while not mpi.results_of(folder) and process.poll() is None and time.monotonic() < begin + 30:
            time.sleep(0.05)
        told, took = mpi.results_of(folder), time.monotonic() - begin
        by_launcher = process.poll() is not None
        process.terminate()  # mpirun would wait for a stopped rank
        for pid in stopped_jobs(model):
            os.kill(pid, signal.SIGKILL)
    if by_launcher and not told and mpi.launcher() == "MPICH":
        assert took < 10  # mpiexec ended the job itself, which with -disable-auto-cleanup it does now and then
        return
    told = [got for got in told if got["rank"] == 0]  # a launcher may wake a stopped rank, which then raises too
    assert len(told) == 1
    assert re.search(what, told[0]["error"])
    assert told[0]["seconds"] < 4.5
    print(f"{fault}, tp {tp}, pp {pp}: {told[0]['seconds']:.2f} s: {told[0]['error']}")


def stopped_jobs(folder):
    """Ranks of ours that a SIGSTOP holds: nobody else ends them."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes()
            if b"mpi_job.py" in command and folder.encode() in command and "\nState:\tT" in status.read_text():
                yield int(status.parent.name)
        except OSError:
            continue


def test_idle_ranks_are_no_fault(folder_of):
    done = mpi.run(2, "idle", folder_of(MODELS["parallel"]), 2, 1)
    assert [got["error"] for got in done.ranks] == ["", ""], done.stderr


def test_models_and_options_that_differ_are_told_on_every_rank(folder_of):
    model, other = (folder_of(replace(MODELS["parallel"], seed=seed)) for seed in (11, 13))
    done = mpi.run(2, "model", f"{model},{other}", 2, 1, recovery=True)
    assert done.stderr.count("the ranks differ: rank 0 has model.safetensors: digest") == 2
    done = mpi.run(2, "options", model, 2, 1, recovery=True)
    assert done.stderr.count("rank 0 has max_num_seqs: 256, rank 1 has max_num_seqs: 7") == 2


def test_a_world_of_another_size_and_a_rank_that_never_comes_are_told(folder_of):
    model = folder_of(MODELS["parallel"])
    done = mpi.run(2, "same", model, 4, 1, recovery=True)
    assert done.stderr.count("tensor_parallel_size 4 * pipeline_parallel_size 1 is 4, expected the number of MPI ranks, 2") == 2
    done = mpi.run(2, "missing", model, 2, 1, recovery=True)
    assert "waited 4 s (comm_timeout) in vain for all 2 ranks to make their engine" in done.stderr


def test_threads_refuse_what_does_not_divide(folder_of):
    folder = folder_of(MODELS["parallel"])
    with pytest.raises(ValueError, match="tensor_parallel_size is 3, expected a divisor of the model's 4 attention heads"):
        Engine(folder, device="cpu", tensor_parallel_size=3)
    with pytest.raises(ValueError, match="pipeline_parallel_size is 6, expected at most the model's 5 layers"):
        Engine(folder, device="cpu", pipeline_parallel_size=6)
    with pytest.raises(ValueError, match="devices names GPUs, but device is 'cpu'"):
        Engine(folder, device="cpu", devices=[0])
    with pytest.raises(TypeError, match="expected a communicator of mpi4py"):
        Engine(folder, comm=object())
    engine = Engine(folder, device="cpu", pipeline_parallel_size=2)
    with pytest.raises(RuntimeError, match="no rank 0 to follow"):
        engine.follow()
    engine.release()
    assert len(engine.generate([[1, 2]], SamplingParams(max_tokens=2, ignore_eos=True))[0].outputs[0].token_ids) == 2

# SPDX-License-Identifier: Apache-2.0
"""One rank of a job that test_ranks.py starts under mpirun: mpi_job.py MODE FOLDER TP PP. Each rank leaves
its JSON lines in the folder NEOX_RESULTS."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

import mpi
import prompt_cases
from neoxnative import Engine, SamplingParams

COMM = MPI.COMM_WORLD
LAST = COMM.size - 1
TIMEOUT = 4.0
PROMPTS = [[1 + (7 * i + 13 * k) % 60 for i in range(5 + 19 * k)] for k in range(4)]
PARAMS = [SamplingParams(max_tokens=8, temperature=k % 2, seed=k, top_p=0.9, n=1 + k % 2, ignore_eos=True) for k in range(4)]


def outcome(engine):
    outputs = engine.generate(PROMPTS, PARAMS)
    again = engine.generate(PROMPTS, PARAMS)
    ids = [[c.token_ids for c in o.outputs] for o in outputs]
    assert [[c.token_ids for c in o.outputs] for o in again] == ids, "from the prefix cache"
    return {
        "ids": ids,
        "score": [s.cumulative_logprob for s in engine.score(PROMPTS)],
        "logits": engine.forward([PROMPTS[3][:40], PROMPTS[2][:40]]).ravel()[::17].astype(float).tolist(),
    }


def say(**what):
    """For the test, which reads the files: mpirun mixes what ranks print."""
    with Path(os.environ["NEOX_RESULTS"], f"rank{COMM.rank}").open("a") as file:
        file.write(json.dumps({"rank": COMM.rank, **what}) + "\n")


def make(folder, tp, pp, **more):
    more |= mpi.placed(COMM.size)
    return Engine(folder, comm=COMM, tensor_parallel_size=tp, pipeline_parallel_size=pp, comm_timeout=TIMEOUT, **more)


def same(folder, tp, pp):
    engine = make(folder, tp, pp, max_num_batched_tokens=48)
    say(**outcome(engine))


def served(folder, tp, pp):
    """Rank 0 drives by itself, the others follow; then all call together again."""
    engine = make(folder, tp, pp)
    if COMM.rank == 0:
        requests = [engine.submit(prompt, params) for prompt, params in zip(PROMPTS, PARAMS)]
        gone = engine.submit(PROMPTS[0], SamplingParams(max_tokens=100, ignore_eos=True))
        ended = {}
        while engine.has_work():
            ended |= {delta.request_id: delta.output for delta in engine.step() if delta.output is not None}
            engine.cancel(gone)
        assert ended[gone].outputs[0].finish_reason == "cancelled"
        ids = [[c.token_ids for c in ended[request].outputs] for request in requests]
        pieces = list(engine.stream(PROMPTS[1], PARAMS[0]))
        assert sum(len(piece.token_ids) for piece in pieces) == 8
        assert ids == outcome(engine)["ids"]  # they still follow
        engine.release()
    else:
        for call in (lambda: engine.submit([1]), lambda: engine.step(), lambda: engine.stream([1])):
            try:
                call()
                raise AssertionError("it did not raise")
            except RuntimeError as error:
                assert f"on rank {COMM.rank}, expected rank 0" in str(error)
        engine.follow()
    say(ids=outcome(engine)["ids"])


def different(folder, tp, pp):
    """Calls that differ raise on all ranks, and the engine lives on."""
    engine = make(folder, tp, pp)
    calls = [lambda: engine.generate([1 + COMM.rank]), lambda: (engine.score if COMM.rank else engine.generate)([1, 2])]
    calls.append(lambda: engine.forward(np.full((1, 3), 10**6)))  # refused on rank 0, raised on all
    for call in calls:
        try:
            call()
        except ValueError as error:
            say(error=str(error))
    assert outcome(engine)["ids"]


def learned(folder, tp, pp):
    engine = make(folder, tp, pp, prompt_learning=prompt_cases.tasks(prompt_cases.MODELS[0]))
    say(ids=learned_outcome(engine))


def learned_outcome(engine):
    """Continuations with learned prompts of all kinds."""
    model = prompt_cases.MODELS[0]
    prompts = [case.prompt(model) for case in prompt_cases.cases(model) if case.beams == 1]
    outputs = engine.generate(prompts, SamplingParams(max_tokens=6, temperature=0, ignore_eos=True))
    return [o.outputs[0].token_ids for o in outputs]


def strike(fault):
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "kill_soon":
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()
    if fault == "stop_soon":
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGSTOP)).start()
    if fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "sleep":
        time.sleep(3 * TIMEOUT)
    if fault == "throw":
        raise LookupError("a fault of the script")


def faulty(fault, folder, tp, pp):
    """The last rank is struck; each other rank says what it raised, how long after."""
    engine = make(folder, tp, pp)
    params = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
    engine.generate(PROMPTS, params)
    COMM.Barrier()
    begin = time.monotonic()
    if fault == "idle":  # a server without work
        time.sleep(float(os.environ.get("NEOX_IDLE", 3 * TIMEOUT)))
    try:
        for i in range(10**6 if fault != "idle" else 3):
            if i == 2 and COMM.rank == LAST:
                strike(fault)
            if i == 2:
                begin = time.monotonic()
            engine.generate(PROMPTS, params)
    except RuntimeError as error:
        say(seconds=time.monotonic() - begin, error=str(error))
        raise
    say(error="")


def main(mode, folder, tp, pp):
    if mode == "model":
        folder = folder.split(",")[COMM.rank == LAST]
    if mode == "options" and COMM.rank == LAST:
        make(folder, tp, pp, max_num_seqs=7)
    elif mode in ("model", "options"):
        make(folder, tp, pp)
    elif mode == "missing":
        if COMM.rank != LAST:
            make(folder, tp, pp)
        time.sleep(2 * TIMEOUT)
        os._exit(0)  # MPICH's MPI_Finalize would wait for the rank that gave up
    elif mode in ("same", "served", "different", "learned"):
        {"same": same, "served": served, "different": different, "learned": learned}[mode](folder, tp, pp)
    else:
        faulty(mode, folder, tp, pp)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

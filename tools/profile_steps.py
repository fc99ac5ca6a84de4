# SPDX-License-Identifier: Apache-2.0
"""Decode steps on a GPU under CUPTI: what the host calls and what the GPU runs in each.

python tools/profile_steps.py [--model FOLDER] [--load-format dummy] [--dtype float16] [--cells BxP,...] [--steps N] [--check | --prefill]

Prints, for one step on average: every kind of call to the CUDA driver, and every kernel and copy with its time. Kernels that start early
overlap, so that their times may add up to more than the time in which the GPU is busy. Tracing makes the host slower: what a step takes
without it is `neoxnative bench`'s to say.
--check: fails unless each step has one synchronisation, one upload, one download and no other copy, and nothing is allocated.
"""

import argparse
import math
import subprocess
import sys
import time
from collections import Counter, defaultdict

import numpy as np

from cupti import COPIES, Trace
from neoxnative import Engine, SamplingParams

WARM_UP = 16  # steps
SYNCHRONISATIONS = ("cuStreamSynchronize", "cuEventSynchronize", "cuCtxSynchronize", "cuDeviceSynchronize")
QUERIES = ("cuStreamQuery", "cuEventQuery")  # a loop of them is a synchronisation too
ALLOCATIONS = ("cuMemAlloc", "cuMemFree", "cuMemHost", "cuMemCreate", "cuMemRelease", "cuMemMap", "cuGraphInstantiate", "cuModuleLoad")


def decode(engine, trace, batch, prompt, steps):
    """Brings a batch of random prompts past their ends and traces `steps` steps; returns the seconds."""
    ahead = math.ceil(
        batch * prompt / max(engine.info.max_num_batched_tokens - batch, 1)
    )  # what the first may have when the last one starts
    length = prompt + ahead + WARM_UP + steps + 2
    pages = batch * math.ceil(length / engine.info.block_size)
    if length > engine.info.max_model_len or pages > engine.info.num_blocks:
        raise ValueError(
            f"{batch}x{prompt} needs {length} positions and {pages} pages, of {engine.info.max_model_len} and {engine.info.num_blocks}"
        )
    random = np.random.default_rng(0)
    params = SamplingParams(max_tokens=length - prompt, temperature=0, ignore_eos=True)
    requests = {engine.submit(ids, params) for ids in random.integers(0, engine.info.vocab, (batch, prompt))}
    waiting = set(requests)
    while waiting:
        waiting -= {delta.request_id for delta in engine.step()}
    for _ in range(WARM_UP):
        engine.step()
    trace.start()
    start = time.perf_counter()
    tokens = sum(len(delta.token_ids) for _ in range(steps) for delta in engine.step())
    seconds = time.perf_counter() - start
    trace.stop()
    assert tokens == batch * steps
    for request in requests:
        engine.cancel(request)
    while engine.has_work():
        engine.step()
    return seconds


def prefill(engine, trace, batch, prompt):
    """Traces the steps that compute a batch of random prompts up to their first tokens, after one such batch; returns the seconds."""
    random = np.random.default_rng(0)
    params = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
    for traced in (False, True):
        for ids in random.integers(0, engine.info.vocab, (batch, prompt)):
            engine.submit(ids, params)
        if traced:
            trace.start()
        start = time.perf_counter()
        while engine.has_work():
            engine.step()
        seconds = time.perf_counter() - start
    trace.stop()
    return seconds


def busy(work):
    """The time in ns in which at least one of these ran."""
    total = end_of_last = 0
    for _, start, end in work:
        total += max(0, end - max(start, end_of_last))
        end_of_last = max(end_of_last, end)
    return total


def pauses(work):
    """The times in ns in which none of these ran, by what ran before and after. From the first kernel on: CUPTI takes 5 ms before it."""
    found, end_of_last, last = defaultdict(list), None, None
    first = next((i for i, (name, _, _) in enumerate(work) if name not in COPIES.values()), 0)
    for name, start, end in work[first:]:
        if end_of_last is not None and start > end_of_last:
            found[last, name].append(start - end_of_last)
        if end_of_last is None or end > end_of_last:
            end_of_last, last = end, name
    return found


def readable(names):
    """Kernels as C++ writes them, without their parameters."""
    try:
        done = subprocess.run(["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return dict(zip(names, names))
    return dict(zip(names, done.stdout.splitlines()))


def report(trace, seconds, steps):
    times = defaultdict(list)
    for name, start, end in trace.work:
        times[name].append(end - start)
    names = readable(list(times))
    print(f"{'calls a step':>12}  of the driver")
    for name, count in trace.calls.most_common():
        print(f"{count / steps:>12.2f}  {name}")
    print(f"\n{'a step':>12}{'us each':>9}{'us a step':>11}  on the GPU")
    for name, spent in sorted(times.items(), key=lambda item: -sum(item[1])):
        row = f"{len(spent) / steps:>12.2f}{np.mean(spent) / 1e3:>9.2f}{sum(spent) / steps / 1e3:>11.1f}"
        print(f"{row}  {names[name][:120]}")
    total = sum(map(sum, times.values()))
    print(
        f"{'':>12}{'':>9}{total / steps / 1e3:>11.1f}  all; the GPU was busy for {busy(trace.work) / steps / 1e3:.1f} us of a step's",
        end="",
    )
    print(f" {seconds / steps * 1e6:.1f} (traced)")
    idle = pauses(trace.work)
    print(f"{sum(map(sum, idle.values())) / steps / 1e3:>32.1f}  idle between them, most of it")
    for (before, after), times in sorted(idle.items(), key=lambda item: -sum(item[1]))[:6]:
        row = f"{len(times) / steps:>12.2f}{np.mean(times) / 1e3:>9.2f}{sum(times) / steps / 1e3:>11.1f}"
        print(f"{row}  from {names[before][:50]} to {names[after][:50]}")


def check(trace, steps):
    """What is not as it should be, one line each."""
    copies = Counter(name for name, _, _ in trace.work if name in COPIES.values() or name.startswith("copy "))

    def called(prefixes):
        return {name: count for name, count in trace.calls.items() if name.startswith(prefixes)}

    wrong = []
    if sum(called(SYNCHRONISATIONS).values()) != steps or called(QUERIES):
        wrong.append(f"synchronisations are {called(SYNCHRONISATIONS + QUERIES)}, expected {steps} in {steps} steps")
    if copies != {"HtoD": steps, "DtoH": steps}:
        wrong.append(f"copies are {dict(copies)}, expected one HtoD and one DtoH in each of {steps} steps")
    if called(ALLOCATIONS):
        wrong.append(f"a step allocates: {called(ALLOCATIONS)}")
    if not trace.work:
        wrong.append("CUPTI saw no work of the GPU")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="the demo model unless named")
    parser.add_argument("--load-format", default="auto")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--cells", default="4x32", metavar="BxP,...", help="batches of prompts of a length")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--prefill", action="store_true", help="the prompts' steps, as one, in place of decode steps")
    parser.add_argument("-tp", "--tensor-parallel-size", type=int, default=1, help="what is printed is the sum over the GPUs")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    options = {"dtype": args.dtype, "load_format": args.load_format, "enable_prefix_caching": False}
    options |= {"tensor_parallel_size": args.tensor_parallel_size}
    engine = Engine(args.model, device="cuda", **options)
    trace, failed = Trace(), False
    for batch, prompt in (map(int, cell.split("x")) for cell in args.cells.split(",")):
        steps = "the prompts" if args.prefill else f"{args.steps} steps"
        print(f"\n{engine.info.model}, {args.dtype}, {batch}x{prompt}: {steps}, {engine.info.device_detail}\n")
        if args.prefill:
            report(trace, prefill(engine, trace, batch, prompt), 1)
            continue
        report(trace, decode(engine, trace, batch, prompt, args.steps), args.steps)
        for line in check(trace, args.steps) if args.check else []:
            print(f"WRONG: {line}")
            failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())

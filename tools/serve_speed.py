#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What HTTP costs: the same load through an Engine and through `neoxnative serve`, with and without streaming.

The load is that of mixed lengths (--load: a JSON file with input_lengths and output_lengths), random ids, greedy, EOS ignored, all at once.
Each way runs in a process of its own on a model of --config's shape with random weights. The ways take turns, and the ratios of what ran
close together are printed: of throughput, and of processor time, the client's included, which other users of the machine disturb less.

    python tools/serve_speed.py --config path/to/pythia-160m --load mixed_load.json --requests 64 --rounds 3
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from neoxnative.bench_server import Client, make_jobs, read_lengths

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "python"))
from serving import Server

DIRECT = """
import json, sys, time
from neoxnative import Engine, SamplingParams
model, options = sys.argv[1], json.loads(sys.argv[2])
engine = Engine(model, **options)
print("ready", flush=True)
for line in sys.stdin:
    load = json.loads(line)
    params = [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True) for _, n in load]
    start, cpu = time.perf_counter(), time.process_time()
    engine.generate([prompt for prompt, _ in load], params)
    print(json.dumps([time.perf_counter() - start, time.process_time() - cpu]), flush=True)
"""


def processor_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def through_engine(process, jobs):
    """(seconds, processor seconds)"""
    process.stdin.write(json.dumps([(job.prompt, job.output_length) for job in jobs]) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def through_http(server, jobs, stream):
    async def all_at_once():
        async with Client(server.url) as client:
            return await client.run(jobs, stream=stream)

    start, cpu = time.perf_counter(), processor_seconds(server.process.pid) + time.process_time()
    timings = asyncio.run(all_at_once())
    took = time.perf_counter() - start, processor_seconds(server.process.pid) + time.process_time() - cpu
    failed = [timing.error for timing in timings if timing.error]
    if failed:
        raise SystemExit(f"{len(failed)} requests failed, the first: {failed[0]}")
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a folder with a config.json, and a tokenizer.json where there is one")
    parser.add_argument("--load", required=True)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    vocab = json.loads((Path(args.config) / "config.json").read_text())["vocab_size"]
    options = {"load_format": "dummy", "dtype": args.dtype, "enable_prefix_caching": False}
    command = [sys.executable, "-c", DIRECT, args.config, json.dumps(options)]
    direct = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert direct.stdout.readline() == "ready\n"
    flags = ["--load-format", "dummy", "--dtype", args.dtype, "--no-enable-prefix-caching", "--request-timeout", "0"]
    ways = {"engine": [], "http": [], "streaming": []}  # of each round (seconds, processor seconds)
    with Server(args.config, *flags) as server:
        for number in range(args.rounds + 1):  # the first one, short, warms up
            load = make_jobs(read_lengths(args.load, args.requests if number else 4), vocab=min(vocab, 50000), seed=number)
            took = {
                "engine": through_engine(direct, load),
                "http": through_http(server, load, stream=False),
                "streaming": through_http(server, load, stream=True),
            }
            if number:
                tokens = sum(job.output_length for job in load)
                shown = (f"{way} {tokens / wall:.1f} tokens/s, {cpu:.1f} s of processor" for way, (wall, cpu) in took.items())
                print(f"round {number}, {tokens} tokens: {'; '.join(shown)}", flush=True)
            for way in ways if number else ():
                ways[way].append(took[way])
    direct.stdin.close()
    direct.wait()
    for way in ("http", "streaming"):
        for what, at in (("throughput", 0), ("work per processor second", 1)):
            ratios = [e[at] / w[at] for e, w in zip(ways["engine"], ways[way])]
            print(f"{way}: {statistics.median(ratios):.1%} of the engine's {what} ({', '.join(f'{r:.1%}' for r in ratios)})")


if __name__ == "__main__":
    main()

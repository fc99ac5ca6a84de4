#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What HTTP costs: the same load through an Engine and through `neoxnative serve`, with and without streaming.

The load is that of mixed lengths (--load: a JSON file with input_lengths and output_lengths), random ids, greedy, EOS ignored, all at once.
Each way runs in a process of its own on a model of --config's shape with random weights. The ways take turns, and the medians and their
ratios are printed: on a machine that others use, only what ran close together can be compared.

    python tools/serve_speed.py --config path/to/pythia-160m --load mixed_load.json --requests 64 --rounds 3
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "python"))
from serving import Server, complete

DIRECT = """
import json, sys, time
from neoxnative import Engine, SamplingParams
model, options = sys.argv[1], json.loads(sys.argv[2])
engine = Engine(model, **options)
print("ready", flush=True)
for line in sys.stdin:
    load = json.loads(line)
    params = [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True) for _, n in load]
    start = time.perf_counter()
    outputs = engine.generate([prompt for prompt, _ in load], params)
    print(json.dumps([time.perf_counter() - start, sum(len(o.outputs[0].token_ids) for o in outputs)]), flush=True)
"""


def read_load(path, requests, vocab, seed):
    lengths = json.loads(Path(path).read_text())
    rng = random.Random(seed)
    pairs = list(zip(lengths["input_lengths"], lengths["output_lengths"]))[:requests]
    return [([rng.randrange(1, vocab) for _ in range(prompt)], new) for prompt, new in pairs]


async def through_http(port, load, stream):
    start = time.perf_counter()
    asked = [
        complete(port, prompt=prompt, max_tokens=new, temperature=0, ignore_eos=True, **({"stream": True} if stream else {}))
        for prompt, new in load
    ]
    replies = await asyncio.gather(*asked)
    seconds = time.perf_counter() - start
    assert all(reply.status == 200 and (reply.done or not stream) for reply in replies)
    return seconds


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
    flags = ["--load-format", "dummy", "--dtype", args.dtype, "--no-enable-prefix-caching"]
    seconds = {"engine": [], "http": [], "streaming": []}
    with Server(args.config, *flags) as server:
        for number in range(args.rounds + 1):  # the first round warms up
            load = read_load(args.load, args.requests, min(vocab, 50000), number)
            tokens = sum(new for _, new in load)
            direct.stdin.write(json.dumps(load) + "\n")
            direct.stdin.flush()
            took = {"engine": json.loads(direct.stdout.readline())[0]}
            took["http"] = asyncio.run(through_http(server.port, load, stream=False))
            took["streaming"] = asyncio.run(through_http(server.port, load, stream=True))
            print(f"round {number}:", ", ".join(f"{way} {tokens / s:.1f} tokens/s" for way, s in took.items()), flush=True)
            for way in seconds if number else ():
                seconds[way].append(took[way])
    direct.stdin.close()
    direct.wait()
    for way in ("http", "streaming"):
        ratios = [e / s for e, s in zip(seconds["engine"], seconds[way])]
        print(f"{way}: {statistics.median(ratios):.1%} of the engine's throughput (rounds: {', '.join(f'{r:.1%}' for r in ratios)})")


if __name__ == "__main__":
    main()

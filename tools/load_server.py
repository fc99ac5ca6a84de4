#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A long load on `neoxnative serve`, and what has to hold: rounds of requests of mixed lengths, many at once, of which a tenth hang up
midway and a tenth are nonsense.

The good ones have to get their texts, each the same as alone; after every round no page may be in use; the server's memory has to stay
flat. Then the server is killed in the middle of a round, and another takes its port: clients see a broken connection, and nothing hangs.

    python tools/load_server.py --rounds 10 --requests 500 --at-once 64
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "python"))
from load import Load, emptied
from serving import Server, complete

FLAT = 8 * 2**20  # bytes that the server may grow by from the third round to the last


async def rounds(server, args):
    load, sizes = Load(server.port, at_once=args.at_once, seed=args.seed), []
    await load.alone()
    for number in range(args.rounds):
        start = time.monotonic()
        await load.round(args.requests)
        took = time.monotonic() - start
        metrics = await emptied(server)
        sizes.append(server.resident())
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(load.outcomes.items()))
        pages = int(metrics["kv_cache_blocks_used"])
        print(
            f"round {number}: {took:.1f} s, {counts}, {len(load.wrong)} wrong, {pages} pages in use, {sizes[-1] / 2**20:.1f} MiB",
            flush=True,
        )
        if pages or metrics["num_sequences_admitted"]:
            raise SystemExit("FAILED: a round has ended, and pages are still in use")
    print(f"preemptions {int(metrics['num_preemptions_total'])}, cached prompt tokens {int(metrics['prefix_cache_hits_total'])}")
    if load.wrong:
        raise SystemExit(f"FAILED: {len(load.wrong)} answers were wrong, the first: {load.wrong[0]}")
    if len(sizes) > 3 and sizes[-1] - sizes[2] > FLAT:
        raise SystemExit(f"FAILED: memory grew by {(sizes[-1] - sizes[2]) / 2**20:.1f} MiB after the third round")


async def killed(server, args):
    load = Load(server.port, at_once=args.at_once, seed=args.seed + 1)
    task = asyncio.create_task(load.round(args.requests))
    await asyncio.sleep(1)
    server.process.kill()
    (broken,) = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 30)
    if not isinstance(broken, OSError | EOFError):
        raise SystemExit(f"FAILED: a killed server's clients saw {broken!r}, expected a broken connection")
    print(f"killed in mid-load: clients saw {type(broken).__name__}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=500, help="of each round")
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args, flags = parser.parse_known_args()  # the rest is the server's
    with Server(*flags) as server:
        asyncio.run(rounds(server, args))
        asyncio.run(killed(server, args))
        port = str(server.port)
    with Server("--port", port, *flags) as again:
        reply = asyncio.run(complete(again.port, prompt="It was", max_tokens=4, temperature=0))
        if reply.status != 200:
            raise SystemExit(f"FAILED: the next server answered {reply}")
    print("all of it held")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""A load of good clients, clients that hang up and clients that send nonsense, on one server."""

import asyncio
import random
from collections import Counter

from serving import complete, post

STORY = "the night was dark and a storm came over the old house by the sea where nobody had lived for many years"
WORDS = STORY.split()
NONSENSE = [
    b"{",
    b"[]",
    b"\xff\xfe",
    {"prompt": 7},
    {"prompt": [[]]},
    {"prompt": "a", "top_p": 5},
    {"prompt": [10**9]},
    {"prompt": "a", "x": 1},
]


def good_bodies(rng, count):
    """Greedy requests of mixed lengths; some share a beginning, and a third are streamed."""
    bodies = []
    for _ in range(count):
        prompt = " ".join(rng.choices(WORDS, k=rng.choice([2, 8, 30, 120])))
        if rng.random() < 0.3:
            prompt = STORY + " " + prompt
        bodies.append({"prompt": prompt, "max_tokens": rng.choice([1, 5, 20, 60]), "temperature": 0, "stream": rng.random() < 1 / 3})
    return bodies


class Load:
    """Runs rounds of requests, `at_once` at a time: of ten one hangs up midway and one sends nonsense.

    outcomes counts what came of them; texts holds what each good body gave, which has to be the same every time.
    """

    def __init__(self, port, *, at_once=64, seed=0, kinds=40):
        self._port = port
        self._rng = random.Random(seed)
        self._at_once = at_once
        self._bodies = good_bodies(self._rng, kinds)
        self.outcomes = Counter()
        self.wrong = []
        self.texts = {}

    async def alone(self):
        """What every good body gives with nothing beside it."""
        for number, body in enumerate(self._bodies):
            self._check(number, await complete(self._port, **body))

    async def round(self, requests):
        room = asyncio.Semaphore(self._at_once)

        async def one(number, draw, body):
            async with room:
                await self._one(number, draw, body)

        picks = [(i, self._rng.random()) for i in self._rng.choices(range(len(self._bodies)), k=requests)]
        await asyncio.gather(*(one(i, draw, self._bodies[i]) for i, draw in picks))

    async def _one(self, number, draw, body):
        if draw < 0.1:
            longer = body | {"max_tokens": 100, "ignore_eos": True}
            await complete(self._port, leave_after=int(draw * 100) % 4 if body["stream"] else 0, **longer)
            self.outcomes["left"] += 1
        elif draw < 0.2:
            reply = await post(self._port, "/v1/completions", NONSENSE[int(draw * 1000) % len(NONSENSE)])
            self.outcomes["nonsense"] += 1
            if reply.status != 400 or "error" not in reply.json():
                self.wrong.append(reply)
        else:
            self._check(number, await complete(self._port, **body))
            self.outcomes["good"] += 1

    def _check(self, number, reply):
        body = self._bodies[number]
        if reply.status != 200 or (body["stream"] and not reply.done):
            self.wrong.append(reply)
        elif self.texts.setdefault(number, reply.text()) != reply.text():
            self.wrong.append((self.texts[number], reply.text()))


async def emptied(server, seconds=10):
    """The metrics once no request has a page any more, or after this long."""
    for _ in range(seconds * 10):
        metrics = await server.metrics()
        if not metrics["kv_cache_blocks_used"] and not metrics["num_sequences_admitted"]:
            break
        await asyncio.sleep(0.1)
    return metrics

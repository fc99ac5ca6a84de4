#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A long random load on one engine from several threads, with little KV memory, and what has to hold whatever happens.

Requests of every kind come by generate, stream and submit, beside forward, score and refused calls; some are cancelled, some streams are
left. It has to hold that every request ends once, that a request gives what it gives alone (some of them are run again by themselves), that
the engine's counts add up, and that memory stays flat after a warm-up. One line every 30 s, a verdict at the end; exit code 1 if anything
did not hold.

    python tools/random_load.py --minutes 3 --seed 1

With the engine built for AddressSanitizer, which Python has to be started with:

    pip install . -C cmake.define.NEOX_SANITIZE=address
    LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)" \\
    ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16:malloc_context_size=2 python tools/random_load.py --minutes 20
"""

import argparse
import faulthandler
import inspect
import queue
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from neoxnative import Engine, SamplingParams

LENGTH = 256  # positions of a request
STEMS = [random.Random(i).choices(range(256), k=120) for i in range(4)]  # common beginnings of prompts
NOBODY = 2**60  # an id that no request has
PIECES = ["é", "e", "ab", "zz", "\n\n", "stop", "€", " ", "q", "<0>"]
TEXTS = ["".join(random.Random(i).choices(PIECES, k=1 + i)) for i in range(40)]  # few, since a tokenizer remembers what it has seen


def tiny_model(folder: Path) -> Path:
    """A random model that has a token for each byte, so that text comes in parts of characters and stop strings across tokens."""
    import tokenizers

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "python"))
    import models
    from neoxnative.tokenizer import _BYTES

    models.write(models.Model(seed=3, heads=2, head_dim=16, vocab=260, max_positions=LENGTH), folder)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=dict(_BYTES), merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def options(rng: random.Random) -> dict:
    """Of the engine under load: few pages and small steps, so that requests push each other out."""
    chosen = {
        "block_size": rng.choice([16, 16, 32]),
        "max_num_batched_tokens": rng.choice([24, 64, 200]),
        "max_num_seqs": rng.choice([6, 20]),
        "enable_prefix_caching": rng.random() < 0.8,
        "num_threads": rng.choice([1, 2]),
        "kv_cache_dtype": rng.choice(["float32", "bfloat16"]),
    }
    if "async_scheduling" in inspect.signature(Engine).parameters:
        chosen["async_scheduling"] = rng.random() < 0.7
    return chosen


def random_prompt(rng: random.Random) -> list[int] | str:
    if rng.random() < 0.2:
        return rng.choice(TEXTS)
    stem = rng.choice(STEMS)[: rng.choice([0, 16, 31, 32, 33, 64, 120])]
    return stem + rng.choices(range(256), k=rng.choice([1, 1, 2, 5, 20, 60]))


def random_params(rng: random.Random) -> SamplingParams:
    fields = {"max_tokens": rng.choice([1, 2, 10, 30, 60]), "seed": rng.randrange(2**64), "ignore_eos": rng.random() < 0.5}
    fields["temperature"] = rng.choice([0, 0.7, 1, 1.5])
    if rng.random() < 0.5:
        fields |= {"top_k": rng.choice([0, 1, 20]), "top_p": rng.choice([0.5, 0.9, 1]), "min_p": rng.choice([0, 0.05])}
    if rng.random() < 0.25:
        fields["n"] = rng.choice([2, 3, 8])
    if rng.random() < 0.5:
        fields |= {"stop": rng.sample(PIECES, rng.choice([1, 3])), "include_stop_str_in_output": rng.random() < 0.5}
    if rng.random() < 0.3:
        fields["stop_token_ids"] = rng.sample(range(256), rng.choice([1, 16]))
    if rng.random() < 0.3:
        fields["min_tokens"] = rng.randint(0, fields["max_tokens"])
    if rng.random() < 0.3:
        fields["logprobs"] = rng.choice([0, 1, 5])
    if rng.random() < 0.2:
        fields |= {"prompt_logprobs": rng.choice([0, 3]), "prompt_logprobs_start": rng.choice([0, 0, 17, 400])}
        if rng.random() < 0.3 and "n" not in fields:
            fields |= {"max_tokens": 0, "min_tokens": 0}
    edits = {
        "repetition_penalty": [1.2, 0.9],
        "presence_penalty": [0.5],
        "frequency_penalty": [-0.3, 1.0],
        "no_repeat_ngram_size": [2, 3],
        "bad_words": [["zz", "ab"], [[5, 6], [7]], "q"],
        "logit_bias": [{3: 2.0, 200: -50.0}],
        "allowed_token_ids": [range(0, 256, 2)],
        "typical_p": [0.8],
        "top_p_decay": [0.9],
    }
    for name, values in edits.items():
        if rng.random() < 0.08:
            fields[name] = rng.choice(values)
    if rng.random() < 0.15 and fields["max_tokens"] > 0:
        fields |= {"beam_width": rng.choice([2, 3, 4]), "n": rng.choice([1, 2]), "max_tokens": rng.choice([2, 10, 30]), "min_tokens": 0}
        fields |= {"length_penalty": rng.choice([0.0, 1.0]), "early_stopping": rng.choice([True, False, "never"])}
    return SamplingParams(**fields)


def facts(completion):
    """All that has to be the same for the same request."""
    bits = np.float32(completion.token_logprobs).tobytes()
    return completion.token_ids, bits, completion.text, completion.logprobs, completion.finish_reason, completion.stop_reason


class Load:
    def __init__(self, model: Path, seed: int) -> None:
        rng = random.Random(seed)
        chosen = options(rng)
        probe = Engine(model, dtype="float32", **chosen | {"kv_cache_memory": 1 << 30})
        page = probe.info.kv_cache_bytes // probe.info.num_blocks
        pages = LENGTH // chosen["block_size"] * rng.choice([1, 2, 3]) + rng.randrange(4)
        self.engine = Engine(model, dtype="float32", **chosen, kv_cache_memory=pages * page)
        self.alone = Engine(model, dtype="float32", num_threads=1, enable_prefix_caching=False, kv_cache_dtype=chosen["kv_cache_dtype"])
        print(f"seed {seed}: {pages} pages, {chosen}", flush=True)
        self.forward_ids = [np.array(rng.choices(range(256), k=2 * k)).reshape(2, k) for k in (1, 17, 90)]
        self.forward_logits = [self.alone.forward(ids) for ids in self.forward_ids]
        self.seed = seed
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.last_ended = NOBODY
        self.open: dict[int, list] = {}  # by submit: id -> [prompt, params, finished samples, text by sample]
        self.to_check: queue.Queue = queue.Queue(maxsize=16)

    # What has to hold

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            with self.lock:
                self.violations.append(what)
            print(f"VIOLATION: {what}", flush=True)

    def count(self, what: str, n: int = 1) -> None:
        with self.lock:
            self.counts[what] += n

    def ended(self, prompt: list[int] | str, params: SamplingParams, output, *, cancelled: bool = False) -> None:
        """A request has ended: looks at it, and hands some to be run again alone."""
        for completion in output.outputs:
            reason = completion.finish_reason
            expected = {"stop", "length", "cancelled"} if cancelled else {"stop", "length"}
            self.expect(reason in expected, f"request {output.request_id} ends by {reason}: {completion.error}")
            self.expect(len(completion.token_ids) <= params.max_tokens, "no more tokens than max_tokens")
            if reason == "stop":
                self.expect(len(completion.token_ids) >= params.min_tokens, "no stop before min_tokens")
        self.expect(len(output.outputs) == params.n, "as many samples as were asked for")
        self.count("ended")
        try:
            self.to_check.put_nowait((prompt, params, output))
        except queue.Full:
            self.count("unchecked")

    def check(self) -> None:
        """Runs requests again, each alone on another engine."""
        while not (self.stopping.is_set() and self.to_check.empty()):
            try:
                prompt, params, output = self.to_check.get(timeout=0.1)
            except queue.Empty:
                continue
            expected = self.alone.generate(prompt, params)[0]
            for got, want in zip(output.outputs, expected.outputs, strict=True):
                if got.finish_reason == "cancelled":
                    same = got.token_ids == want.token_ids[: len(got.token_ids)]
                else:
                    same = facts(got) == facts(want)
                self.expect(same, f"{params} of {prompt} gave {got}, but alone {want}")
            if all(completion.finish_reason != "cancelled" for completion in output.outputs):
                self.expect(output.prompt_logprobs == expected.prompt_logprobs, f"{params} of {prompt}: other prompt_logprobs than alone")
            self.count("checked")

    # Calls

    def generate(self, rng: random.Random) -> None:
        prompts = [random_prompt(rng) for _ in range(rng.choice([1, 1, 2, 6]))]
        params = [random_params(rng) for _ in prompts]
        self.count("submitted", len(prompts))
        for prompt, asked, output in zip(prompts, params, self.engine.generate(prompts, params), strict=True):
            self.ended(prompt, asked, output)

    def stream(self, rng: random.Random) -> None:
        prompt, params = random_prompt(rng), random_params(rng)
        leave = rng.choice([0, 1, 5]) if rng.random() < 0.3 else 10**9
        texts, ends, output = [""] * params.n, 0, None
        self.count("submitted")
        for piece in self.engine.stream(prompt, params):
            texts[piece.index] += piece.text
            ends += piece.finished
            output = piece.output or output
            leave -= 1
            if leave <= 0:
                self.count("left")
                self.count("ended")
                return
        self.expect(ends == 1 and output is not None, f"a stream ended {ends} times")
        self.expect(texts == [completion.text for completion in output.outputs], "pieces of a stream join to the text")
        self.ended(prompt, params, output)

    def forward(self, rng: random.Random) -> None:
        i = rng.randrange(len(self.forward_ids))
        self.count("submitted", len(self.forward_ids[i]))
        logits = self.engine.forward(self.forward_ids[i])
        self.expect(np.array_equal(logits, self.forward_logits[i]), "forward gives what it gives alone")
        self.count("ended", len(self.forward_ids[i]))

    def score(self, rng: random.Random) -> None:
        prompt, start = random_prompt(rng), rng.choice([0, 0, 40])
        self.count("submitted")
        got, want = (engine.score([prompt], start=start)[0] for engine in (self.engine, self.alone))
        self.expect(got == want, f"score of {prompt} from {start} on: {got}, but alone {want}")
        self.count("ended")

    def refused(self, rng: random.Random) -> None:
        calls = [
            lambda: self.engine.generate([[1, 2, 100000]]),
            lambda: self.engine.generate([[]]),
            lambda: self.engine.generate([[1.5]]),
            lambda: self.engine.generate([1] * (LENGTH + 1)),
            lambda: self.engine.generate([1], SamplingParams(logprobs=1000)),
            lambda: self.engine.submit([-1]),
            lambda: self.engine.forward([[1] * (LENGTH + 1)]),
            lambda: SamplingParams(top_p=0),
            lambda: next(self.engine.stream([[1]])),
        ]
        try:
            rng.choice(calls)()
        except ValueError:
            self.count("refused")
        else:
            self.expect(False, "what is wrong is refused")

    def work(self, number: int) -> None:
        rng = random.Random(f"{self.seed} {number}")
        calls = [self.generate] * 5 + [self.stream] * 5 + [self.forward, self.score, self.refused]
        while not self.stopping.is_set():
            rng.choice(calls)(rng)

    # The loop of a server

    def arrive(self, number: int) -> None:
        rng = random.Random(f"{self.seed} arrivals {number}")
        while not self.stopping.is_set():
            with self.lock:
                full = len(self.open) > 30
                if not full:
                    prompt, params = random_prompt(rng), random_params(rng)
                    self.open[self.engine.submit(prompt, params)] = [prompt, params, set(), [""] * params.n]
                    self.counts["submitted"] += 1
                victim = rng.choice(list(self.open)) if self.open and rng.random() < 0.2 else rng.choice([self.last_ended, NOBODY])
            self.engine.cancel(victim)
            time.sleep(0.05 if full else rng.choice([0, 0, 0.001, 0.02]))

    def serve(self) -> None:
        while not self.stopping.is_set() or self.engine.has_work():
            if not self.engine.has_work():
                time.sleep(0.001)
            for delta in self.engine.step():
                self.take(delta)

    def take(self, delta) -> None:
        with self.lock:
            entry = self.open.get(delta.request_id)
            if delta.finished:
                self.open.pop(delta.request_id, None)
                self.last_ended = delta.request_id
        self.expect(entry is not None, f"request {delta.request_id} goes on after its end")
        if entry is None:
            return
        prompt, params, finished, texts = entry
        self.expect(delta.index not in finished, f"sample {delta.index} of request {delta.request_id} goes on after its end")
        texts[delta.index] += delta.text
        if delta.finish_reason is not None:
            finished.add(delta.index)
        if delta.output is not None:
            self.expect(len(finished) == params.n, "a request ends with its last sample")
            self.expect(texts == [completion.text for completion in delta.output.outputs], "deltas join to the text")
            self.ended(prompt, params, delta.output, cancelled=True)

    # The whole run

    def guard(self, target, *arguments) -> None:
        try:
            target(*arguments)
        except BaseException as error:
            self.expect(False, f"{target.__name__} raised {type(error).__name__}: {error}")
            self.stopping.set()

    def run(self, seconds: float) -> bool:
        jobs = [(self.check,), (self.serve,), *[(self.arrive, i) for i in range(2)], *[(self.work, i) for i in range(4)]]
        threads = [threading.Thread(target=self.guard, args=job, daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        begin, said, last, progress = time.monotonic(), 0.0, -1, time.monotonic()
        memory: list[tuple[float, int]] = []
        while (now := time.monotonic() - begin) < seconds and not self.stopping.is_set():
            self.stopping.wait(1)
            memory.append((now, resident()))
            if self.counts["ended"] != last:
                last, progress = self.counts["ended"], time.monotonic()
            if time.monotonic() - progress > 120:
                faulthandler.dump_traceback()
                self.expect(False, "no request has ended for two minutes")
                return False
            if now - said >= 30:
                said = now
                print(self.line(now), flush=True)
        self.stopping.set()
        for thread in threads:
            thread.join(120)
        self.expect(not any(thread.is_alive() for thread in threads), "every thread comes to its end")
        self.finish(memory, seconds)
        return not self.violations

    def finish(self, memory: list[tuple[float, int]], seconds: float) -> None:
        while self.engine.has_work():  # what arrived after the server's last look
            for delta in self.engine.step():
                self.take(delta)
        self.engine.step()  # what was left is cancelled by now
        stats = self.engine.stats
        self.expect(not self.open, f"{len(self.open)} requests never ended")
        self.expect(stats.requests == self.counts["submitted"], f"{self.counts} were submitted, {stats} counted")
        self.expect(self.counts["ended"] == self.counts["submitted"], f"every request ended once: {self.counts}")
        self.expect(stats.finished == stats.requests, f"every request is counted as finished: {stats}")
        self.expect(stats.running == stats.waiting == stats.blocks_used == 0, f"nothing is left: {stats}")
        early = [rss for at, rss in memory if seconds * 0.3 <= at < seconds * 0.5]
        late = [rss for at, rss in memory if at >= seconds * 0.8]
        if early and late:
            before, after = np.median(early), np.median(late)
            self.expect(after <= before * 1.05 + (8 << 20), f"memory grew from {before / 2**20:.1f} to {after / 2**20:.1f} MiB")

    def line(self, now: float) -> str:
        stats = self.engine.stats
        counts = " ".join(f"{name} {self.counts[name]}" for name in ("submitted", "ended", "checked", "left", "refused"))
        return (
            f"{now:5.0f} s: {counts}; steps {stats.steps} preemptions {stats.preemptions} cached {stats.tokens_cached} "
            f"pages {stats.blocks_used}/{stats.blocks_total}; {resident() / 2**20:.1f} MiB; violations {len(self.violations)}"
        )


def resident() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS:"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3, help="how long (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the load and of the engine's options (default: 0)")
    parser.add_argument("--model", type=Path, help="a folder with a tokenizer (default: a tiny random model)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        load = Load(args.model or tiny_model(Path(folder)), args.seed)
        held = load.run(args.minutes * 60)
    print(load.line(args.minutes * 60))
    print("everything held" if held else f"{len(load.violations)} violations, the first: {load.violations[0][:2000]}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

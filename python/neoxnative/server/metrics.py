"""What /metrics says: vLLM's names and labels, with "neoxnative:" in the place of "vllm:"."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..engine import Engine
from ..outputs import Delta
from ..requests import Request
from .gate import Gate

_FIRST = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.5, 5, 10, 20, 40, 80, 160)  # seconds
_BETWEEN = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5)
_WHOLE = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 240, 480, 960)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 4000, 8000)


class Metrics:
    """Counts of one server; `text` is what Prometheus reads."""

    def __init__(self, engine: Engine, gate: Gate, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._label = {"model_name": model_name}

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            made = Histogram(f"neoxnative:{name}", text, ["model_name"], buckets=buckets, registry=self._registry)
            return made.labels(**self._label)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"neoxnative:{name}", text, ["model_name", *labels], registry=self._registry)

        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts that came in").labels(**self._label)
        self.looked_up = counter("prefix_cache_queries", "Tokens of prompts that were looked up in the prefix cache").labels(**self._label)
        self.generation_tokens = counter("generation_tokens", "New tokens").labels(**self._label)
        self.first = histogram("time_to_first_token_seconds", "From a request's arrival to its first token", _FIRST)
        self.between = histogram("inter_token_latency_seconds", "From one token of a sequence to its next", _BETWEEN)
        self.whole = histogram("e2e_request_latency_seconds", "From a request's arrival to its end", _WHOLE)
        self.prompt_size = histogram("request_prompt_tokens", "Tokens of a prompt", _TOKENS)
        self.output_size = histogram("request_generation_tokens", "New tokens of a sequence", _TOKENS)
        self._success = counter("request_success", "Sequences that ended, by why they did", "finished_reason")
        self._responses = counter("http_responses", "Answers by endpoint and status", "path", "status")
        self._registry.register(_EngineState(engine, gate, self._label))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def ended(self, reason: str) -> None:
        self._success.labels(finished_reason=reason, **self._label).inc()

    def answered(self, path: str, status: int) -> None:
        self._responses.labels(path=path, status=str(status), **self._label).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)


class Watch:
    """Times the tokens of a call's requests, on the thread that steps."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._arrival = time.perf_counter()
        self._last: dict[tuple[int, int], float] = {}  # (request, sample) -> time of its last token

    def submitted(self, requests: list[Request]) -> None:
        for request in requests:
            length = len(request.output.prompt_token_ids)
            self._metrics.prompt_tokens.inc(length)
            self._metrics.looked_up.inc(length)
            self._metrics.prompt_size.observe(length)

    def __call__(self, index: int, delta: Delta) -> None:
        metrics, now = self._metrics, time.perf_counter()
        if delta.token_ids:
            before = self._last.get((index, delta.index))
            if before is not None:
                metrics.between.observe((now - before) / len(delta.token_ids))
            elif delta.index == 0:
                metrics.first.observe(now - self._arrival)
            self._last[index, delta.index] = now
            metrics.generation_tokens.inc(len(delta.token_ids))
        if delta.finish_reason is not None:
            metrics.ended({"cancelled": "abort"}.get(delta.finish_reason, delta.finish_reason))
        if delta.output is not None:
            metrics.whole.observe(now - self._arrival)
            for completion in delta.output.outputs:
                metrics.output_size.observe(len(completion.token_ids))


class _EngineState(Collector):
    """The engine's own counts, as of the moment that they are asked for."""

    def __init__(self, engine: Engine, gate: Gate, label: dict[str, str]) -> None:
        self._engine = engine
        self._gate = gate
        self._label = label

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats
        gauges = {
            "num_requests_running": ("Sequences in the batch", stats.running),
            "num_requests_waiting": ("Sequences that wait for a place in the batch", stats.waiting),
            "num_sequences_admitted": ("Sequences of requests that have not been answered", self._gate.inside),
            "kv_cache_usage_perc": ("Share of the KV cache's pages in use, 0 to 1", stats.blocks_used / max(stats.blocks_total, 1)),
            "kv_cache_blocks_used": ("Pages of the KV cache in use", stats.blocks_used),
            "kv_cache_blocks": ("Pages of the KV cache", stats.blocks_total),
        }
        counters = {
            "num_preemptions": ("Sequences that were put back for want of pages", stats.preemptions),
            "prefix_cache_hits": ("Prompt tokens that the prefix cache spared", stats.tokens_cached),
            "engine_steps": ("Steps of the engine", stats.steps),
            "engine_running_seconds": ("Time of steps in the model", stats.running_seconds),
            "engine_planning_seconds": ("Time of steps on the host", stats.planning_seconds),
        }
        for families, kind in ((gauges, GaugeMetricFamily), (counters, CounterMetricFamily)):
            for name, (text, value) in families.items():
                family = kind(f"neoxnative:{name}", text, labels=list(self._label))
                family.add_metric(list(self._label.values()), value)
                yield family

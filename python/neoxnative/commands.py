"""What each command of the command line does: from its parsed options to what is printed, and its exit code."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import neoxnative
from neoxnative import Engine, EngineInfo, RequestOutput, SamplingParams, ScoreOutput

from . import _core
from .bench import format_report, measure
from .chat import Conversation, talk
from .convert import Report, to_ft, to_hf, write_config
from .convert.quantized import errors as quantization_errors
from .convert.source import Source, open_source
from .hub import resolve_model, resolve_tokenizer
from .progress import StatusLine
from .server.options import ServerOptions
from .tokenizer import open_tokenizer

PROMPT = "It was a dark and stormy night"


def generate(args: Namespace) -> int:
    try:
        params = SamplingParams(**_options(args, SamplingParams))
    except ValueError as error:
        args.usage_error(str(error))
    if args.file is not None and args.prompt is not None:
        args.usage_error("PROMPT and --file were both given, expected one of them")
    prompts = _lines(args.file) if args.file is not None else [_text(args.prompt or PROMPT)]
    engine = _open(args)
    if len(prompts) == 1 and params.n == 1 and not args.json:
        _stream(engine, prompts[0], params)
        return 0
    outputs = _generate_all(engine, prompts, params)
    for output in outputs:
        _print_output(output, as_json=args.json)
    return int(any(completion.error for output in outputs for completion in output.outputs))


def score(args: Namespace) -> int:
    if (args.file is not None) == bool(args.text):
        args.usage_error("expected TEXT or --file, and not both")
    texts = _lines(args.file) if args.file is not None else [_text(text) for text in args.text]
    engine = _open(args)
    scores = engine.score(texts)
    scored = [logprob for score in scores for logprob in score.logprobs if logprob is not None]
    total = ScoreOutput(None, [], list(scored))
    if not args.json:
        print(f"{'perplexity':>12}{'tokens':>10}  text")
    for one in scores:
        _print_score(engine, one, args)
    if args.json:
        print(json.dumps({"total": {"texts": len(scores), **_described(total)}}))
    else:
        print(f"{total.perplexity:>12.4f}{len(scored):>10}  total of {len(scores)} text{'s' * (len(scores) != 1)}")
    return 0


def chat(args: Namespace) -> int:
    try:
        params = SamplingParams(**_options(args, SamplingParams))
    except ValueError as error:
        args.usage_error(str(error))
    return talk(Conversation(_open(args), params, template=args.chat_template, system=args.system))


def serve(args: Namespace) -> int:
    try:
        from .server.command import serve as run
    except ImportError as error:
        raise ImportError(f'{error}: the server needs pip install "neoxnative[server]"') from None
    given = _options(args, ServerOptions)
    given["api_key"] = given["api_key"] or [key for key in [os.environ.get("NEOXNATIVE_API_KEY")] if key]
    try:
        options = ServerOptions(**given)
    except ValueError as error:
        args.usage_error(str(error))
    return run(_options(args, Engine), options, mpi=args.mpi)


def evaluate(args: Namespace) -> int:
    try:
        from .evaluation import main
    except ImportError as error:
        raise ImportError(f'{error}: evaluation needs pip install "neoxnative[eval]"') from None
    return main(args.arguments)


def convert(args: Namespace) -> int:
    if args.config_only is not None:
        if args.source is not None:
            args.usage_error("--config-only takes a folder, and neither SOURCE nor TARGET")
        print(f"wrote {write_config(args.config_only, overwrite=args.overwrite)}")
        return 0
    if args.target is None:
        args.usage_error("expected SOURCE and TARGET, or --config-only FOLDER")
    source, common = resolve_model(args.source), {"overwrite": args.overwrite, "threads": args.num_threads}
    common["dtype"] = None if args.dtype == "auto" else args.dtype
    start = time.perf_counter()
    if args.to == "ft" and args.quantization is not None:
        args.usage_error("--quantization is for --to hf: FasterTransformer's format has no such integers")
    if args.quantization_group_size is not None and args.quantization is None:
        args.usage_error("--quantization-group-size is for --quantization int4 and w4a8")
    if args.to == "hf" or args.quantization is not None:
        report = to_hf(source, args.target, quantization=args.quantization, group_size=args.quantization_group_size, **common)
    else:
        name = args.model_name or Path(args.source).resolve().name
        report = to_ft(source, args.target, ranks=args.tensor_parallel_size, model_name=name, **common)
    print_report(report, time.perf_counter() - start)
    return 0


def print_report(report: Report, seconds: float) -> None:
    if report.left_out:
        names = ", ".join(report.left_out[:5]) + (", ..." if len(report.left_out) > 5 else "")
        print(f"neoxnative: warning: {len(report.left_out)} tensors that a GPT-NeoX model has not were left out: {names}", file=sys.stderr)
    for warning in report.warnings:
        print(f"neoxnative: warning: {warning}", file=sys.stderr)
    print(f"wrote {report.folder}, {report.bytes / 1e9:.3f} GB in {seconds:.1f} s")


def bench(args: Namespace) -> int:
    foreign = args.only_of_engine if args.url else args.only_of_server
    for name, default in foreign.items():
        if getattr(args, name) != default:
            args.usage_error(f"--{name.replace('_', '-')} {'does not go with' if args.url else 'needs'} --url")
    return _bench_server(args) if args.url else _bench_engine(args)


def _bench_engine(args: Namespace) -> int:
    args.enable_prefix_caching = False  # random prompts have no common beginning, but those of a next round would
    engine = _load(args)
    cells = args.cells or [(batch, prompt) for batch in args.batch for prompt in args.prompt]
    with StatusLine() as line:
        report = measure(engine, cells=cells, new_tokens=args.new_tokens, rounds=args.rounds, calls=args.calls, tell=line.show)
    _put_report(report, format_report(report), args.json)
    return 0


def _bench_server(args: Namespace) -> int:
    try:
        from . import bench_server
    except ImportError as error:
        raise ImportError(f'{error}: --url needs pip install "neoxnative[bench]"') from None
    if args.load:
        lengths = bench_server.read_lengths(args.load, args.requests)
    else:
        lengths = [(args.input_len, args.output_len)] * (args.requests or 64)
    work = bench_server.measure_server(
        args.url,
        lengths,
        model=args.model,
        api_key=args.api_key or os.environ.get("NEOXNATIVE_API_KEY"),
        tokenizer=None if args.tokenizer is None else open_tokenizer(resolve_tokenizer(args.tokenizer)),
        vocab=args.vocab_size,
        request_rate=args.request_rate,
        stream=args.stream,
        body=args.extra_body,
        seed=args.seed,
    )
    with StatusLine() as line:
        line.show(f"{len(lengths)} requests on their way to {args.url}")
        report = asyncio.run(work)
    _put_report(report, bench_server.format_report(report), args.json)
    return int(report["failed"] > 0)


def _put_report(report: dict[str, Any], text: str, json_file: str | None) -> None:
    """As text; with --json as JSON instead, or with --json FILE also there."""
    described = json.dumps(report, ensure_ascii=False)
    if json_file is not None and json_file != "-":
        Path(json_file).write_text(described + "\n", encoding="utf-8")
    print(described if json_file == "-" else text)


def info(args: Namespace) -> int:
    engine = _open(args)
    info = asdict(engine.info)
    del info["warnings"]
    info["eos_token_ids"] = " ".join(map(str, info["eos_token_ids"])) or "none"
    for name, value in info.items():
        if name.endswith("_bytes"):
            value = f"{value:,} ({value / 2**20:,.1f} MiB)"
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        elif name == "parameters":
            value = f"{value:,}"
        print(f"{name:<24}{value}")
    if args.quantization not in (None, "none") and args.load_format != "dummy":
        try:
            source = open_source(engine.info.model)
        except NotImplementedError as error:  # it has integers already
            print(f"neoxnative: warning: the error of the weights cannot be told: {error}", file=sys.stderr)
        else:
            _print_quantization_errors(source, engine.info)
    return 0


def _print_quantization_errors(source: Source, info: EngineInfo) -> None:
    """The relative error of each matrix, and of all of a layer's together."""
    columns = {"query_key_value": "qkv", "attention.dense": "out", "dense_h_to_4h": "up", "dense_4h_to_h": "down"}
    print(f"\nerror of the {info.quantization} weights, ||integers * scales - weight|| / ||weight||")
    print(f"{'layer':<9}" + "".join(f"{column:>9}" for column in (*columns.values(), "all")))
    sums: dict[str, list[tuple[float, float]]] = {}
    for name, error, norm in quantization_errors(source, info.quantization, info.quantization_group_size):
        layer = name.split(".")[2] if ".layers." in name else "head"
        row = sums.setdefault(layer, [])
        row.append((error, norm))
        if len(row) == len(columns) or layer == "head":
            total = (sum(e for e, _ in row), sum(n for _, n in row))
            cells = [f"{math.sqrt(e / n) if n else 0:>9.4f}" for e, n in (*row, total)]
            print(f"{layer:<9}" + ("".join(cells) if layer != "head" else f"{cells[-1]:>{9 * (len(columns) + 1)}}"))


def doctor(_: Namespace) -> int:
    rows = [("neoxnative", neoxnative.__version__), ("python", platform.python_version())]
    rows += [("system", platform.platform()), ("cpu", _cpu_name())]
    rows += [(package, version_of(package)) for package in ("numpy", "tokenizers", "huggingface_hub")]
    rows += [("build", line) for line in neoxnative.build_info()]
    rows += [("gpu", line) for line in _core.gpu_report()]
    rows += [("mpi4py", _version_or_none("mpi4py")), ("mpirun", _mpirun())]
    for name, value in rows:
        print(f"{name:<17}{value}")
    start = time.perf_counter()
    engine = Engine()
    loaded = time.perf_counter()
    output = engine.generate(PROMPT, SamplingParams(max_tokens=16, temperature=0))[0].outputs[0]
    done = time.perf_counter()
    print(f"{'device':<17}{engine.info.device}, {engine.info.device_detail}")
    print(f"{'demo model':<17}loaded in {loaded - start:.2f} s, {len(output.token_ids)} tokens in {done - loaded:.2f} s")
    print(f"{'':<17}{PROMPT}{output.text}")
    return 0


def _version_or_none(package: str) -> str:
    try:
        return version_of(package)
    except PackageNotFoundError:
        return "not installed (pip install mpi4py)"


def _mpirun() -> str:
    path = shutil.which("mpirun")
    if path is None:
        return "not on the PATH"
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout.split("\n")
    return f"{path}, {' '.join(said[0].split())}{f', {said[1].strip()}' if said[0].startswith('HYDRA') and len(said) > 1 else ''}"


def _options(args: Namespace, source: type) -> dict[str, Any]:
    return {name: getattr(args, name) for name in inspect.signature(source).parameters if hasattr(args, name)}


def _load(args: Namespace) -> Engine:
    return Engine(**_options(args, Engine))


def _open(args: Namespace) -> Engine:
    engine = _load(args)
    for warning in engine.info.warnings:
        print(f"neoxnative: warning: {warning}", file=sys.stderr)
    return engine


def _text(text: str) -> str:
    """The text of an argument, that of stdin for "-"."""
    return sys.stdin.read().removesuffix("\n") if text == "-" else text


def _lines(path: str) -> list[str]:
    text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    lines = [line for line in text.split("\n") if line]
    if not lines:
        raise ValueError(f"{path} has no texts: expected one on each line")
    return lines


def _stream(engine: Engine, prompt: str, params: SamplingParams) -> None:
    print(prompt, end="", flush=True)
    for piece in engine.stream(prompt, params):
        print(piece.text, end="", flush=True)
    print()


def _generate_all(engine: Engine, prompts: Sequence[str], params: SamplingParams) -> list[RequestOutput]:
    """As Engine.generate, and shows how far it is."""
    requests = [engine.submit(prompt, params) for prompt in prompts]
    outputs: dict[int, RequestOutput] = {}
    tokens, start = 0, time.perf_counter()
    with StatusLine() as line:
        while len(outputs) < len(requests):
            for delta in engine.step():
                tokens += len(delta.token_ids)
                if delta.output is not None:
                    outputs[delta.request_id] = delta.output
            rate = tokens / (time.perf_counter() - start)
            line.show(f"{len(outputs)} of {len(requests)} prompts done, {tokens:,} tokens, {rate:,.0f} tokens/s")
    errors = [completion.error for output in outputs.values() for completion in output.outputs]
    if all(errors):
        raise errors[0]  # type: ignore[misc]
    return [outputs[request] for request in requests]


def _print_output(output: RequestOutput, *, as_json: bool) -> None:
    if as_json:
        described = asdict(output)
        for completion, source in zip(described["outputs"], output.outputs, strict=True):
            completion["cumulative_logprob"] = source.cumulative_logprob
            completion["error"] = source.error and str(source.error)
        print(json.dumps(described, ensure_ascii=False))
        return
    for completion in output.outputs:
        print(f"{output.prompt}{completion.text}")
        if completion.error:
            print(f"neoxnative: error: {completion.error}", file=sys.stderr)


def _described(score: ScoreOutput) -> dict[str, Any]:
    """The numbers of a score for JSON, which has no NaN and no infinity."""
    count = sum(logprob is not None for logprob in score.logprobs)
    perplexity = score.perplexity if math.isfinite(score.perplexity) else None
    return {"tokens": count, "logprob": score.cumulative_logprob, "perplexity": perplexity}


def _print_score(engine: Engine, score: ScoreOutput, args: Namespace) -> None:
    pieces = [engine.tokenizer.piece(token) for token in score.token_ids] if args.per_token and engine.tokenizer else []
    if args.json:
        each = {"token_ids": score.token_ids, "pieces": pieces, "logprobs": score.logprobs} if args.per_token else {}
        print(json.dumps({"text": score.prompt, **_described(score), **each}, ensure_ascii=False))
        return
    text = (score.prompt or "").replace("\n", "\\n")
    print(f"{score.perplexity:>12.4f}{_described(score)['tokens']:>10}  {text}")
    for piece, logprob in zip(pieces, score.logprobs):
        print(f"{'-' if logprob is None else format(logprob, '.4f'):>22}  {json.dumps(piece, ensure_ascii=False)}")


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()

"""The command line: neoxnative generate | info | doctor."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version as version_of
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import neoxnative
from neoxnative import Engine, RequestOutput, SamplingParams

_PROMPT = "It was a dark and stormy night"
_SAMPLING_DEFAULTS = {"max_tokens": 128, "temperature": 0.8, "top_p": 0.95, "seed": 0}
_GENERATE = """Continue a prompt and print both as they come. Without --model the demo model answers: a GPT-NeoX of 6.8 million
parameters, trained on English fiction printed before 1928.

The default here is to sample (temperature 0.8, top_p 0.95), since small models repeat themselves when greedy, with
seed 0, so that the same command prints the same text. --temperature 0 is greedy; another --seed is another text."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"neoxnative: error: {message} (see {self.prog} -h)", file=sys.stderr)
        sys.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 1 after an error, 2 after a wrong option, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader left: nothing to say, and nothing to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        else:
            print(f"neoxnative: error: {error or type(error).__name__}", file=sys.stderr)
        return 1


def _parser() -> _Parser:
    parser = _Parser(prog="neoxnative", description="Inference for the GPT-NeoX family. `neoxnative COMMAND -h` tells a command's options.")
    parser.add_argument("--version", action="version", version=f"neoxnative {neoxnative.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], summary: str, description: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(run=run, usage_error=sub.error)
        return sub

    generate = command("generate", _generate, "continue a prompt", _GENERATE)
    text = f'the text to continue, "-" to read it from stdin (default: "{_PROMPT}")'
    generate.add_argument("prompt", nargs="?", metavar="PROMPT", help=text)
    generate.add_argument("--file", metavar="PATH", help='continue every line of this file, "-" for stdin; empty lines are left out')
    generate.add_argument("--json", action="store_true", help="print one JSON object for each prompt, in order, instead of text")
    _add_options(generate.add_argument_group("sampling"), SamplingParams, _SAMPLING_DEFAULTS)
    _add_options(generate.add_argument_group("engine"), Engine, skip={"seed", "block_size", "max_num_seqs"})
    info = command("info", _info, "describe a model", "Load a model and print its configuration and what it takes in memory.")
    _add_options(info.add_argument_group("engine"), Engine)
    checks = "Print versions, what this build holds and why a part is off, and let the demo model answer."
    command("doctor", _doctor, "check this installation", checks)
    return parser


def _add_options(
    group: argparse._ArgumentGroup, source: type[Any], defaults: Mapping[str, Any] = MappingProxyType({}), *, skip: Collection[str] = ()
) -> None:
    """One option for each parameter of `source`, its type from the annotation and its help from the class's docstring."""
    documented = dict(re.findall(r"^    (\w+): (.+)$", source.__doc__ or "", re.MULTILINE))
    hints = get_type_hints(source.__init__)
    for name, parameter in inspect.signature(source).parameters.items():
        if name in skip:
            continue
        default = defaults.get(name, parameter.default)
        text = documented.get(name, "").replace("%", "%%").replace("None", "unset")
        flag = "--" + name.replace("_", "-")
        if hints[name] is bool:
            action = argparse.BooleanOptionalAction if default else "store_true"
            group.add_argument(flag, action=action, default=default, help=text)
            continue
        if default is not None and default != ():
            text += f" (default: {default})"
        kinds = get_args(hints[name]) or (hints[name],)
        many = next((kind for kind in (hints[name], *kinds) if get_origin(kind) is Sequence), None)
        kinds = get_args(many) if many else kinds
        kind = next((kind for kind in (int, float) if kind in kinds), str)
        metavar = {int: "N", float: "X", str: "PATH" if os.PathLike[str] in kinds else "NAME"}[kind]
        if many:
            group.add_argument(flag, type=kind, action="append", default=[], metavar=metavar, help=text + " (may be repeated)")
        else:
            group.add_argument(flag, type=kind, default=default, metavar=metavar, help=text)


def _options(args: argparse.Namespace, source: type) -> dict[str, Any]:
    return {name: getattr(args, name) for name in inspect.signature(source).parameters if hasattr(args, name)}


def _generate(args: argparse.Namespace) -> int:
    try:
        params = SamplingParams(**_options(args, SamplingParams))
    except ValueError as error:
        args.usage_error(str(error))
    if args.file is not None and args.prompt is not None:
        args.usage_error("PROMPT and --file were both given, expected one of them")
    prompts = _prompts(args)
    engine = _open(args)
    if len(prompts) == 1 and params.n == 1 and not args.json:
        _stream(engine, prompts[0], params)
        return 0
    outputs = engine.generate(prompts, params)
    for output in outputs:
        _print_output(output, as_json=args.json)
    return int(any(completion.error for output in outputs for completion in output.outputs))


def _prompts(args: argparse.Namespace) -> list[str]:
    if args.file is None:
        return [sys.stdin.read().removesuffix("\n") if args.prompt == "-" else args.prompt or _PROMPT]
    text = sys.stdin.read() if args.file == "-" else Path(args.file).read_text(encoding="utf-8")
    lines = [line for line in text.split("\n") if line]
    if not lines:
        raise ValueError(f"{args.file} has no prompts: expected one on each line")
    return lines


def _stream(engine: Engine, prompt: str, params: SamplingParams) -> None:
    print(prompt, end="", flush=True)
    for piece in engine.stream(prompt, params):
        print(piece.text, end="", flush=True)
    print()


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


def _open(args: argparse.Namespace) -> Engine:
    engine = Engine(**_options(args, Engine))
    for warning in engine.info.warnings:
        print(f"neoxnative: warning: {warning}", file=sys.stderr)
    return engine


def _info(args: argparse.Namespace) -> int:
    info = asdict(_open(args).info)
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
    return 0


def _doctor(_: argparse.Namespace) -> int:
    rows = [("neoxnative", neoxnative.__version__), ("python", platform.python_version())]
    rows += [("system", platform.platform()), ("cpu", _cpu_name())]
    rows += [(package, version_of(package)) for package in ("numpy", "tokenizers")]
    rows += [("build", line) for line in neoxnative.build_info()]
    for name, value in rows:
        print(f"{name:<12}{value}")
    start = time.perf_counter()
    engine = Engine()
    loaded = time.perf_counter()
    output = engine.generate(_PROMPT, SamplingParams(max_tokens=16, temperature=0))[0].outputs[0]
    done = time.perf_counter()
    print(f"{'device':<12}{engine.info.device}, {engine.info.device_detail}")
    print(f"{'demo model':<12}loaded in {loaded - start:.2f} s, {len(output.token_ids)} tokens in {done - loaded:.2f} s")
    print(f"{'':<12}{_PROMPT}{output.text}")
    return 0


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()

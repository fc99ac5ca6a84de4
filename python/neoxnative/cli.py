"""The command line: neoxnative generate | chat | score | serve | eval | convert | bench | info | doctor. What they do is in commands.py."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import neoxnative
from neoxnative import Engine, SamplingParams

from . import bench, commands
from .convert.quantized import MODES
from .server.options import ServerOptions

_SAMPLING_DEFAULTS = {"max_tokens": 128, "temperature": 0.8, "top_p": 0.95, "seed": 0}
_NOT_FOR_ONE = {"seed", "block_size", "max_num_seqs"}  # of a server's engine
_SHORT = {"tensor_parallel_size": "-tp", "pipeline_parallel_size": "-pp"}  # vLLM's
_GENERATE = """Continue a prompt and print both as they come. Without --model the demo model answers: a GPT-NeoX of 6.8 million
parameters, trained on English fiction printed before 1928.

The default here is to sample (temperature 0.8, top_p 0.95), since small models repeat themselves when greedy, with
seed 0, so that the same command prints the same text. --temperature 0 is greedy; another --seed is another text."""
_CHAT = """Talk with a model that was trained on conversations, in the form that its tokenizer's chat template or --chat-template gives.
Each line of stdin is a turn."""
_SERVE = """Serve a model over HTTP with OpenAI's endpoints, /v1/completions and /v1/chat/completions among them, until SIGTERM or Ctrl-C:
requests that run then are finished, another Ctrl-C ends at once. It listens on 127.0.0.1 unless told otherwise."""
_EVAL = """Run EleutherAI's lm-evaluation-harness: `neoxnative eval ARGUMENTS` is `lm_eval ARGUMENTS`, with --model neoxnative where none is
given. Its --model_args are the options of Engine, and `lm_eval run -h` tells the rest:

    neoxnative eval --model_args model=EleutherAI/pythia-160m,revision=step3000 --tasks lambada_openai"""
_SCORE = """Print how probable each text is to the model: its perplexity, which is exp of the mean negative log-prob of its tokens,
and how many tokens that is. A text's first token has no probability."""

_BENCH_SERVER = """
With --url it measures a server, as its clients see it: any that has OpenAI's /v1/completions. Requests of random prompts are sent all at
once, or with --request-rate as a Poisson process, whether or not earlier ones have been answered. Times count from the moment that a
request is due. Its first token is the first event with text; between two such events lies the time between tokens, which is that of
several where a server sends several at once, or has to wait until a character is whole. The time per output token is what follows the first
event, divided by the tokens after the first. Throughput is all new tokens, by the server's count, over the time that the load took."""
_CONVERT = """Write a checkpoint in another format: FasterTransformer's TARGET/<N>-gpu, or HuggingFace's folder TARGET (config.json
and safetensors). SOURCE is a folder in any format that --model reads, or a name on the hub. TARGET is there when all of it
is, or not at all."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"neoxnative: error: {message} (see {self.prog} -h)", file=sys.stderr)
        sys.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 1 after an error, 2 after a wrong option, 130 after Ctrl-C."""
    args, arguments = _parser().parse_known_args(argv)
    args.arguments = arguments
    if args.arguments and args.run is not commands.evaluate:  # which passes them on
        args.usage_error(f"unrecognized arguments: {' '.join(args.arguments)}")
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
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], summary: str, description: str) -> argparse.ArgumentParser:
        sub = parsers.add_parser(name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(run=run, usage_error=sub.error)
        return sub

    generate = command("generate", commands.generate, "continue a prompt", _GENERATE)
    text = f'the text to continue, "-" to read it from stdin (default: "{commands.PROMPT}")'
    generate.add_argument("prompt", nargs="?", metavar="PROMPT", help=text)
    generate.add_argument("--file", metavar="PATH", help='continue every line of this file, "-" for stdin; empty lines are left out')
    generate.add_argument("--json", action="store_true", help="print one JSON object for each prompt, in order, instead of text")
    _add_options(generate.add_argument_group("sampling"), SamplingParams, _SAMPLING_DEFAULTS)
    _add_options(generate.add_argument_group("engine"), Engine, skip=_NOT_FOR_ONE)
    chat = command("chat", commands.chat, "talk with a model", _CHAT)
    _add_model(chat)
    chat.add_argument("--system", metavar="TEXT", help="a system message, which stands before the first turn")
    chat.add_argument("--chat-template", metavar="NAME", help=_documented(ServerOptions)["chat_template"].replace("None", "unset"))
    _add_options(chat.add_argument_group("sampling"), SamplingParams, _SAMPLING_DEFAULTS | {"max_tokens": 512, "seed": None}, skip={"n"})
    _add_options(chat.add_argument_group("engine"), Engine, skip={"model", *_NOT_FOR_ONE})
    score = command("score", commands.score, "perplexity of texts", _SCORE)
    score.add_argument("text", nargs="*", metavar="TEXT", help='a text to score, "-" to read one from stdin')
    score.add_argument("--file", metavar="PATH", help='score every line of this file, "-" for stdin; empty lines are left out')
    score.add_argument("--per-token", action="store_true", help="also print each token's piece of the text and its natural log-probability")
    score.add_argument("--json", action="store_true", help="print one JSON object for each text, in order, and one for the total")
    _add_options(score.add_argument_group("engine"), Engine, skip={*_NOT_FOR_ONE, "max_logprobs"})
    serve = command("serve", commands.serve, "serve a model over HTTP", _SERVE)
    _add_model(serve)
    serve.add_argument("--mpi", action="store_true", help="this is one of the processes that mpirun started, which are the ranks")
    _add_options(serve.add_argument_group("server"), ServerOptions)
    _add_options(serve.add_argument_group("engine"), Engine, skip={"model"})
    command("eval", commands.evaluate, "run lm-evaluation-harness", _EVAL)
    _add_convert(command("convert", commands.convert, "a checkpoint in another format", _CONVERT))
    summary = "tokens/s, beside what the machine can do; or those of a server"
    _add_bench(command("bench", commands.bench, summary, f"{bench.__doc__}{_BENCH_SERVER}"))
    info = command("info", commands.info, "describe a model", "Load a model and print its configuration and what it takes in memory.")
    _add_options(info.add_argument_group("engine"), Engine)
    checks = "Print versions, what this build holds and why a part is off, and let the demo model answer."
    command("doctor", commands.doctor, "check this installation", checks)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a HuggingFace folder or a name on its hub (default: the demo model)")


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _cells(text: str) -> list[tuple[int, int]]:
    parts = [part.partition("x") for part in text.split(",")]
    return [(_count(batch), _count(prompt)) for batch, _, prompt in parts]


def _rate(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def _object(text: str) -> dict[str, Any]:
    with suppress(ValueError):
        if isinstance(found := json.loads(text), dict):
            return found
    raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")


def _pair(text: str) -> tuple[int, float]:
    try:
        token, value = text.split("=")
        return int(token), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a token id and a number, as in 50=-2.5") from None


class _AddPair(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), values[0]: values[1]})


def _choice(words: Mapping[str, Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if text not in words:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(words)}")
        return words[text]

    return read


def _add_convert(convert: argparse.ArgumentParser) -> None:
    convert.add_argument("source", nargs="?", metavar="SOURCE", help="the folder to read, or a name on the hub")
    convert.add_argument("target", nargs="?", metavar="TARGET", help="the folder to write")
    text = "FasterTransformer's format or HuggingFace's (default: ft, with --quantization hf)"
    convert.add_argument("--to", choices=("ft", "hf"), help=text)
    text = "make integers of the matrices of layers and head, as the engine's --quantization does; the folder then loads as it is"
    convert.add_argument("--quantization", choices=MODES, help=text)
    text = "with int4 and w4a8: inputs that share a scale (default: 64)"
    convert.add_argument("--quantization-group-size", type=_count, metavar="32|64|128", help=text)
    text = "with --to ft: ranks to cut it for, a divisor of the attention heads and the intermediate size (default: 1)"
    convert.add_argument("--tensor-parallel-size", type=_count, default=1, metavar="N", help=text)
    types = ("auto", "float32", "float16", "bfloat16")
    convert.add_argument("--dtype", choices=types, default="auto", help="of what is written (default: auto, the source's)")
    convert.add_argument("--model-name", metavar="NAME", help="with --to ft: config.ini's model_name (default: the source folder's)")
    convert.add_argument("--overwrite", action="store_true", help="replace what is there; else a folder that is not empty is refused")
    convert.add_argument("--num-threads", type=_count, metavar="N", help="threads that convert (default: the cores, up to 8)")
    text = "instead: write config.json into this folder of EleutherAI's layer files, from its yml"
    convert.add_argument("--config-only", metavar="FOLDER", help=text)


def _add_bench(measure: argparse.ArgumentParser) -> None:
    text = "print one JSON object, in seconds, bytes and FLOPs, instead of a table; or write it to FILE besides"
    measure.add_argument("--json", nargs="?", const="-", metavar="FILE", help=text)
    own = measure.add_argument_group("what is measured")
    own.add_argument("--batch", type=_counts, default=[1, 8], metavar="N,...", help="prompts at once (default: 1,8)")
    own.add_argument("--prompt", type=_counts, default=[32, 128, 512], metavar="N,...", help="tokens of each (default: 32,128,512)")
    own.add_argument("--cells", type=_cells, metavar="BxP,...", help="instead of every batch with every prompt: 1x128,64x576")
    own.add_argument("--calls", action="store_true", help="also time whole calls of generate")
    own.add_argument("--new-tokens", type=_count, default=64, metavar="N", help="steps of decode in a round (default: 64)")
    own.add_argument("--rounds", type=_count, default=3, metavar="N", help="of which medians are printed (default: 3)")
    engine = measure.add_argument_group("engine")
    _add_options(engine, Engine, skip={"seed", "max_logprobs", "enable_prefix_caching"})
    text = "--model is then the server's name for it; with --tokenizer prompts are texts, else ids"
    server = measure.add_argument_group("a server, in the place of an engine", text)
    server.add_argument("--url", help="of any server with /v1/completions, as http://127.0.0.1:8000")
    server.add_argument("--load", metavar="FILE", help="JSON with input_lengths and output_lengths, the tokens of each request")
    server.add_argument("--requests", type=_count, metavar="N", help="of the load its first N (default: all); without --load 64")
    server.add_argument("--input-len", type=_count, default=128, metavar="N", help="without --load: tokens of each prompt (default: 128)")
    server.add_argument("--output-len", type=_count, default=64, metavar="N", help="without --load: new tokens of each (default: 64)")
    server.add_argument("--request-rate", type=_rate, metavar="X", help="requests a second, a Poisson process (default: all at once)")
    server.add_argument("--no-stream", dest="stream", action="store_false", help="ask for whole answers, which have no time between tokens")
    text = "prompts are ids below it (default: what the server's /tokenizer_info says)"
    server.add_argument("--vocab-size", type=_count, metavar="N", help=text)
    text = "fields of every request besides temperature 0 and ignore_eos true; null leaves one out"
    server.add_argument("--extra-body", type=_object, default={}, metavar="JSON", help=text)
    server.add_argument("--api-key", metavar="KEY", help="unset = the environment's NEOXNATIVE_API_KEY")
    server.add_argument("--seed", type=int, default=0, metavar="N", help="of prompts and arrivals (default: 0)")
    defaults = [{action.dest: action.default for action in group._group_actions} for group in (own, engine, server)]
    not_of_server = defaults[0] | {name: value for name, value in defaults[1].items() if name not in ("model", "tokenizer")}
    measure.set_defaults(only_of_engine=not_of_server, only_of_server=defaults[2])


def _documented(source: type[Any]) -> dict[str, str]:
    return dict(re.findall(r"^    (\w+): (.+)$", source.__doc__ or "", re.MULTILINE))


def _add_options(
    group: argparse._ArgumentGroup, source: type[Any], defaults: Mapping[str, Any] = MappingProxyType({}), *, skip: Collection[str] = ()
) -> None:
    """One option for each parameter of `source`, its type from the annotation and its help from the class's docstring."""
    documented = _documented(source)
    hints = get_type_hints(source.__init__)
    for name, parameter in inspect.signature(source).parameters.items():
        if name in skip or name == "comm":
            continue
        default = defaults.get(name, parameter.default)
        text = documented.get(name, "").replace("%", "%%").replace("None", "unset")
        flag = "--" + name.replace("_", "-")
        flags = (_SHORT[name], flag) if name in _SHORT else (flag,)
        choices = [str(value) for kind in get_args(hints[name]) if get_origin(kind) is Literal for value in get_args(kind)]
        if choices and bool in get_args(hints[name]):
            words = {"true": True, "false": False} | {choice: choice for choice in choices}
            kind_of = _choice(words)
            group.add_argument(
                flag, type=kind_of, default=default, metavar="|".join(words), help=f"{text} (default: {str(default).lower()})"
            )
            continue
        if bool in (hints[name], *get_args(hints[name])):
            action = "store_true" if default is False else argparse.BooleanOptionalAction
            group.add_argument(flag, action=action, default=default, help=text)
            continue
        if default is not None and default != ():
            text += f" (default: {default})"
        kinds = get_args(hints[name]) or (hints[name],)
        if any(get_origin(kind) is Mapping for kind in kinds) and str not in kinds:
            group.add_argument(flag, type=_pair, action=_AddPair, metavar="ID=X", help=text + " (may be repeated)")
            continue
        many = next((kind for kind in (hints[name], *kinds) if get_origin(kind) is Sequence), None)
        kinds = get_args(many) if many else kinds
        kind = next((kind for kind in (int, float) if kind in kinds), str)
        metavar = {int: "N", float: "X", str: "PATH" if os.PathLike[str] in kinds else "NAME"}[kind]
        if many:
            group.add_argument(
                flag, type=kind, action="append", default=None if default is None else [], metavar=metavar, help=text + " (may be repeated)"
            )
        else:
            group.add_argument(*flags, type=kind, default=default, metavar=metavar, help=text)

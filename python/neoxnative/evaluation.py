"""The engine as a model of EleutherAI's lm-evaluation-harness, by the name "neoxnative". Importing this module registers it.

From Python: `import neoxnative.evaluation`, then `lm_eval.simple_evaluate(model="neoxnative", model_args=..., tasks=...)`. From the command
line: `neoxnative eval`, which takes lm_eval's arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from .chat_templates import find_chat_template, special_tokens
from .engine import Engine
from .params import SamplingParams

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")  # what tasks may ask for, by our names
Pair = tuple[Any, list[int], list[int]]  # texts, ids of a context, ids of its continuation


@register_model("neoxnative")
class NeoxLM(TemplateLM):  # type: ignore[misc]
    """A model under evaluation: log-likelihoods by the engine's prompt log-probs, with the pages of equal contexts shared.

    model: as Engine takes it; pretrained is another name for it
    add_bos_token: whether texts get BOS in front; None = as the tokenizer asks for
    max_length: tokens of a context with its continuation, the last one not counted; None = the engine's max_model_len - 1
    max_gen_toks: new tokens at most where a task does not say
    chat_template: as `neoxnative serve` takes it
    device: "cpu" or "cuda"; lm_eval's own default "cuda:0" is the GPU where there is one
    batch_size, max_batch_size: lm_eval's, without effect: the engine batches by its own limits
    options: of Engine
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        pretrained: str | None = None,
        add_bos_token: bool | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        chat_template: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if model is not None and pretrained is not None:
            raise ValueError(f"model is {model!r} and pretrained {pretrained!r}, expected one of them")
        self.engine = Engine(model or pretrained, device="auto" if device in (None, "cuda:0") else device, **options)
        if self.engine.tokenizer is None:
            raise ValueError(f"{self.engine.info.model} has no tokenizer.json: tasks are texts")
        room = self.engine.info.max_model_len - 1
        if max_length is not None and not 0 < max_length <= room:
            raise ValueError(f"max_length is {max_length}, expected 1 to {room}")
        self.max_length = max_length or room
        self.max_gen_toks = max_gen_toks
        self._add_bos = add_bos_token
        self._tokenizer = self.engine.tokenizer
        self._special = special_tokens(Path(self.engine.info.model))
        self._template = find_chat_template(chat_template, Path(self.engine.info.model))
        self._rank, self._world_size, self._device = 0, 1, self.engine.info.device

    @property
    def eot_token_id(self) -> int:
        return (self.engine.info.eos_token_ids or [0])[0]

    @property
    def prefix_token_id(self) -> int:
        bos = self._tokenizer.special_id(self._special.get("bos_token", ""))
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return self.engine.info.model.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return None if self._template is None or not chat_template else self._template.source

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if self._template is None:
            raise ValueError(f"{self.engine.info.model} has no chat template: pass chat_template in --model_args")
        return self._template.render(chat_history, add_generation_prompt=add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        special = self._add_bos if add_special_tokens is None else add_special_tokens
        bos = self._special.get("bos_token")
        if add_special_tokens is None and bos and string.startswith(bos):
            special = False
        if special is None:
            return self._tokenizer.encode(string)
        ids = self._tokenizer.encode(string, add_special_tokens=False)
        return [self.prefix_token_id, *ids] if special else ids

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        owners, pairs = [], []
        for owner, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, windows):
                owners.append(owner)
                pairs.append((None, context, continuation))
        sums = [0.0] * len(requests)
        for owner, (logprob, _) in zip(owners, self._loglikelihood_tokens(pairs, disable_tqdm=disable_tqdm)):
            sums[owner] += logprob
        for request, logprob in zip(requests, sums):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, logprob)
        return sums

    def _loglikelihood_tokens(self, requests: Sequence[Pair], disable_tqdm: bool = False, **_: Any) -> list[tuple[float, bool]]:
        out: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with tqdm(total=len(requests), desc="neoxnative: loglikelihood", disable=disable_tqdm) as bar:
            for wave in self._waves(requests):
                for index, result in zip(wave, self._score([requests[index] for index in wave])):
                    out[index] = result
                    if requests[index][0] is not None:
                        self.cache_hook.add_partial("loglikelihood", requests[index][0], result)
                bar.update(len(wave))
        return out

    def _waves(self, requests: Sequence[Pair]) -> Iterator[list[int]]:
        """Indices of requests that go together: of some contexts one continuation each, then the others, which find the contexts cached."""
        by_context: dict[tuple[int, ...], list[int]] = {}
        for index in sorted(range(len(requests)), key=lambda index: requests[index][1]):  # beginnings in common lie side by side
            by_context.setdefault(tuple(requests[index][1]), []).append(index)
        room = self.engine.info.num_blocks * self.engine.info.block_size // 2
        firsts: list[int] = []
        others: list[int] = []
        filled = 0
        for context, indices in by_context.items():
            if firsts and filled + len(context) > room:
                yield from filter(None, (firsts, others))
                firsts, others, filled = [], [], 0
            firsts.append(indices[0])
            others += indices[1:]
            filled += len(context)
        yield from filter(None, (firsts, others))

    def _score(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        prompts, params = [], []
        for _, context, continuation in pairs:
            if not 0 < len(continuation) <= self.max_length:
                raise ValueError(f"a continuation has {len(continuation)} tokens, expected 1 to max_length {self.max_length}")
            tokens = (context + continuation)[-(self.max_length + 1) :]
            prompts.append(tokens)
            params.append(SamplingParams(max_tokens=0, prompt_logprobs=0, prompt_logprobs_start=len(tokens) - len(continuation)))
        results = []
        for (_, _, continuation), output in zip(pairs, self.engine.generate(prompts, params)):
            if output.outputs[0].error is not None:
                raise output.outputs[0].error
            assert output.prompt_logprobs is not None
            entries = [
                entry[token] for token, entry in zip(continuation, output.prompt_logprobs[-len(continuation) :]) if entry is not None
            ]
            results.append((sum(entry.logprob for entry in entries), all(entry.rank == 0 for entry in entries)))
        return results

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        prompts, params = [], []
        for request in requests:
            text, given = request.args
            asked = dict(normalize_gen_kwargs(given, self.max_gen_toks))
            room = self.engine.info.max_model_len - asked["max_gen_toks"]
            if room < 1:
                raise ValueError(
                    f"max_gen_toks is {asked['max_gen_toks']}, expected less than max_model_len {room + asked['max_gen_toks']}"
                )
            prompts.append(self.tok_encode(text)[-room:])
            sampling = {name: asked[name] for name in _SAMPLING if asked.get(name) is not None}
            stop = [phrase for phrase in asked["until"] if phrase]
            params.append(SamplingParams(max_tokens=asked["max_gen_toks"], stop=stop, **{"temperature": 0.0, **sampling}))
        texts = []
        for request, output in zip(requests, self.engine.generate(prompts, params)):
            if output.outputs[0].error is not None:
                raise output.outputs[0].error
            texts.append(output.outputs[0].text)
            self.cache_hook.add_partial("generate_until", request.args, texts[-1])
        return texts

    def get_model_info(self) -> dict[str, Any]:
        info = self.engine.info
        return {"model_num_parameters": info.parameters, "model_dtype": info.dtype, "model_revision": "", "model_sha": ""}


def main(arguments: list[str]) -> int:
    """lm_eval's command line, with this model where none is named."""
    if arguments[:1] not in (["ls"], ["validate"]):
        arguments = arguments[1:] if arguments[:1] == ["run"] else arguments
        named = any(argument.split("=")[0] in ("--model", "-M") for argument in arguments)
        arguments = ["run", *([] if named else ["--model", "neoxnative"]), *arguments]
    sys.argv = ["neoxnative eval", *arguments]
    cli_evaluate()
    return 0

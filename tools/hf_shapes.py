# SPDX-License-Identifier: Apache-2.0
"""Random models in the shapes of well-known ones, compared with HuggingFace on one device: what tools/compare_hf.py shapes runs.

Every weight has the same value in float32, float16 and bfloat16, so that all engines compute the same model and only arithmetic differs.
Judge is HuggingFace in float32 with eager attention and TF32 off. float32 has to be within ERROR of it; a 16-bit type has to be no farther
from it than HuggingFace itself is in that type, with the attention that it takes by default.

Two measures, each a relative L2 over all rows:
    prefill  all logits of a batch that takes several steps, with prompts cut at their borders
    decode   a ragged batch, generated greedily: after each step the log-probs of the most probable ids, of which the peer is asked about
             the same ids after the same tokens
"""

import inspect
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from neoxnative import Engine, SamplingParams

SHAPES = {  # name: layers, hidden, heads, intermediate, vocabulary, positions, activation
    "tiny": (2, 160, 2, 640, 500, 2048, "gelu"),  # for a CPU
    "pythia-160m": (12, 768, 12, 3072, 50304, 2048, "gelu"),
    "pythia-1b": (16, 2048, 8, 8192, 50304, 2048, "gelu"),  # heads of 256
    "pythia-2.8b": (32, 2560, 32, 10240, 50304, 2048, "gelu"),  # heads of 80
    "20b, 4 layers": (4, 6144, 64, 24576, 50432, 2048, "gelu_fast"),  # heads of 96
}
ERROR = 1e-4
BATCH, LENGTH, STEP = 4, 200, 512  # prefill: two prompts and a part of the third in a first step, the rest in a second one
PROMPTS = (1, 17, 64, 129, 1500)  # decode
NEW_TOKENS, TOP = 12, 1024
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ATTENTIONS = {
    "fused": [{}],
    "unfused": [{"attention": "unfused", "unfused_scores": "float32"}, {"attention": "unfused", "unfused_scores": "model"}],
}


def on_every_grid(value):
    """The nearby value that float16 and bfloat16 both have: bfloat16's bits in float16's range."""
    return value.bfloat16().half().bfloat16().float()


@torch.no_grad()
def write(shape, folder, device):
    """A HuggingFace folder in float16. Every part is large enough to matter: a wrong bias or a swapped norm shows in the logits."""
    layers, hidden, heads, intermediate, vocab, positions, act = SHAPES[shape]
    config = GPTNeoXConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        hidden_act=act,
        max_position_embeddings=positions,
        layer_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = GPTNeoXForCausalLM(config)
    random = torch.Generator(device).manual_seed(7)
    state = {}
    for name, parameter in model.state_dict().items():
        norm, matrix = "layernorm" in name or "layer_norm" in name, parameter.dim() == 2
        spread = 1.0 if "embed_in" in name else 1.5 / parameter.shape[-1] ** 0.5 if matrix else 0.2
        value = torch.randn(parameter.shape, generator=random, device=device) * spread
        state[name] = on_every_grid(value + 1 if norm and name.endswith("weight") else value).half().cpu()
    model.save_pretrained(folder, state_dict=state)
    described = json.loads((Path(folder) / "config.json").read_text())
    (Path(folder) / "config.json").write_text(json.dumps({**described, "dtype": "float16"}))


class Peer:
    def __init__(self, folder, dtype, device, attention):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).to(device).eval()
        self.device = device

    @torch.no_grad()
    def logits(self, ids):
        """[..., vocab] in float32, on the device"""
        ids = torch.as_tensor(np.atleast_2d(ids).astype(np.int64), device=self.device)
        return self.model(ids, use_cache=False).logits.float()

    def log_probs(self, prompts, outputs):
        """Those that `top` takes from the outputs, of the same ids in the same order. [rows, TOP]"""
        rows = []
        for prompt, output in zip(prompts, outputs):
            tokens, ids = output.outputs[0].token_ids, top(output)[0]
            logits = self.logits(np.concatenate([prompt, tokens[:-1]]))[0, len(prompt) - 1 :]
            rows.append(logits.log_softmax(-1).gather(1, torch.as_tensor(ids, device=self.device)))
        return torch.cat(rows)


def top(output):
    """ids and log-probs of the most probable tokens after each step: [NEW_TOKENS, TOP] each"""
    steps = [sorted(step.items(), key=lambda item: -item[1].logprob)[:TOP] for step in output.outputs[0].logprobs]
    return (
        np.array([[token for token, _ in step] for step in steps], np.int64),
        np.array([[entry.logprob for _, entry in step] for step in steps], np.float32),
    )


def relative_error(got, want):
    return float((got - want).norm() / want.norm())


@dataclass
class Prompts:
    batch: np.ndarray  # [BATCH, LENGTH]
    ragged: list[np.ndarray]

    @classmethod
    def of(cls, vocab):
        random = np.random.RandomState(11)
        return cls(random.randint(0, vocab, (BATCH, LENGTH)), [random.randint(0, vocab, n) for n in PROMPTS])


def open_engine(folder, dtype, device, options):
    return Engine(folder, dtype=dtype, device=device, max_num_batched_tokens=STEP, max_logprobs=TOP, kv_cache_memory=2**32, **options)


def compare(engine, prompts, judge, peer, want, peer_prefill):
    """Our errors and the peer's: {measure: (ours, peer's or None)}"""
    got = torch.from_numpy(engine.forward(prompts.batch)).to(judge.device)
    errors = {"prefill": (relative_error(got, want), peer_prefill)}
    params = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True, logprobs=TOP)
    outputs = engine.generate([prompt.tolist() for prompt in prompts.ragged], params)
    right = judge.log_probs(prompts.ragged, outputs)
    ours = torch.from_numpy(np.concatenate([top(output)[1] for output in outputs])).to(judge.device)
    peers = relative_error(peer.log_probs(prompts.ragged, outputs), right) if peer else None
    return errors | {"decode": (relative_error(ours, right), peers)}


def told(shape, dtype, options, errors):
    """Prints the errors of one engine; returns whether all are within what is allowed."""
    good = True
    for measure, (ours, peers) in errors.items():
        allowed = ERROR if peers is None else peers
        good &= ours <= allowed  # a NaN is no number below another
        where = f"{shape:<14} {dtype:<9} {' '.join(options.values()) or 'fused':<16} {measure:<8}"
        print(f"{where} {ours:.2e}  allowed {allowed:.2e}{'' if ours <= allowed else '  WRONG'}", flush=True)
    return good


def compare_shape(shape, folder, device, engines):
    """engines: options of each"""
    prompts = Prompts.of(SHAPES[shape][4])
    judge = Peer(folder, torch.float32, device, "eager")
    want = judge.logits(prompts.batch)
    good = True
    for dtype in DTYPES:
        peer = None if dtype == "float32" else Peer(folder, DTYPES[dtype], device, None)
        peer_prefill = relative_error(peer.logits(prompts.batch), want) if peer else None
        for options in engines:
            if device == "cuda":
                torch.cuda.empty_cache()
            engine = open_engine(folder, dtype, device, options)
            good &= told(shape, dtype, options, compare(engine, prompts, judge, peer, want, peer_prefill))
            del engine
    return good


def run(device, shapes, attentions):
    """Compares every shape; returns whether all is well, which it is not where an attention is asked for that Engine lacks."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    known = inspect.signature(Engine).parameters
    engines = [options for attention in attentions for options in ATTENTIONS[attention]]
    lacking = [options for options in engines if not options.keys() <= known.keys()]
    for options in lacking:
        print(f"{' '.join(options.values())}: not run, Engine has no {' and no '.join(options.keys() - known.keys())}")
    good = not lacking
    for shape in shapes:
        start = time.time()
        with tempfile.TemporaryDirectory() as folder:
            write(shape, folder, device)
            good &= compare_shape(shape, folder, device, [options for options in engines if options not in lacking])
        print(f"{shape}: {time.time() - start:.0f} s", flush=True)
    return good

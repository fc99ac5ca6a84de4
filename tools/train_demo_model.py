"""Trains the demo model classics-7m: a GPT-NeoX of 6.8 million parameters on public-domain English fiction.

    python tools/train_demo_model.py CORPUS OUT [--minutes 6]

CORPUS is a text file, .xz or plain, of documents separated by NUL. The model in the package took 6 minutes on one H200, with 36 million
tokens. Needs torch, transformers and tokenizers.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

LENGTH = 512
BATCH = 128
PEAK_RATE = 3e-3
HELD_OUT = 500_000  # tokens at most
PROMPTS = ["It was a dark and stormy night", '"My dear Watson,"', "Alice opened the door and"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def train_tokenizer(documents: list[str], vocab: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    special = ["<|endoftext|>", "<|padding|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(documents[::8], trainer)
    return tokenizer


def make_model(args: argparse.Namespace) -> GPTNeoXForCausalLM:
    config = GPTNeoXConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        intermediate_size=4 * args.hidden,
        rotary_pct=0.25,
        max_position_embeddings=1024,
        hidden_act="gelu",
        use_parallel_residual=True,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(config).to(DEVICE)


def loss_of(model: GPTNeoXForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    with torch.autocast(DEVICE, torch.bfloat16):
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: GPTNeoXForCausalLM, ids: torch.Tensor) -> float:
    rows = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    return float(np.mean([loss_of(model, part).item() for part in rows.split(64)]))


def train(model: GPTNeoXForCausalLM, ids: torch.Tensor, minutes: float) -> int:
    """Steps of BATCH * LENGTH tokens for so many minutes; the rate rises for 200 steps and falls by a cosine over the time."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95))
    loss_step = torch.compile(lambda rows: loss_of(model, rows)) if DEVICE == "cuda" else lambda rows: loss_of(model, rows)
    model.train()
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / (minutes * 60)) < 1:
        rate = PEAK_RATE * min(1, (step + 1) / 200) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        first = torch.randint(0, len(ids) - LENGTH, (BATCH, 1), device=DEVICE)
        loss = loss_step(ids[first + torch.arange(LENGTH + 1, device=DEVICE)].long())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 20 == 0:  # keeps the queue of a GPU short, so that the time is the time
            print(f"step {step}, {done:.0%}, loss {loss.item():.3f}", flush=True)
        step += 1
    model.eval()
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=4096)
    args = parser.parse_args()

    data = args.corpus.read_bytes()
    documents = (lzma.decompress(data) if args.corpus.suffix == ".xz" else data).decode().split("\0")
    tokenizer = train_tokenizer(documents, args.vocab)
    encodings = tokenizer.encode_batch(documents)
    ids = torch.from_numpy(np.concatenate([np.array([0, *encoding.ids], np.int32) for encoding in encodings])).to(DEVICE)
    held_out = min(HELD_OUT, len(ids) // 10)

    model = make_model(args)
    steps = train(model, ids[:-held_out], args.minutes)
    loss = held_out_loss(model, ids[-held_out:].long())
    bits = loss / math.log(2) * len(ids) / sum(map(len, documents))
    print(f"{steps} steps, held-out loss {loss:.3f} nats a token, {bits:.3f} bits a character")

    model.half().save_pretrained(args.out)
    tokenizer.save(str(args.out / "tokenizer.json"))
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    config = {"add_bos_token": True, "add_prefix_space": False, **special, "tokenizer_class": "GPTNeoXTokenizer"}
    (args.out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    for prompt in PROMPTS:
        rows = torch.tensor([[0, *tokenizer.encode(prompt).ids]], device=DEVICE)
        made = model.generate(rows, attention_mask=torch.ones_like(rows), max_new_tokens=60, do_sample=False, pad_token_id=1)
        print("---", tokenizer.decode(made[0].tolist()))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX-20B's shape with random float16 weights in HuggingFace's generate, and its matrix products alone in torch: what
`neoxnative bench` is measured beside.

    python tools/hf_speed.py [--layers N] [--cells BxP,...] [--compile]

For each cell the first token (a call for one token) and a token (the difference to a call for 65, divided by 64), medians of three, with
attention "sdpa"; --compile: with a static cache, which transformers compiles. Products: those of all layers and of the head, for so many
rows, by torch's cuBLAS in a CUDA graph, each with its own weights.
"""

import argparse
import json
import time
from statistics import median

import torch
import transformers

NEW = 64
ROUNDS = 3


def make_model(layers):
    config = transformers.GPTNeoXConfig(
        vocab_size=50432,
        hidden_size=6144,
        num_hidden_layers=layers,
        num_attention_heads=64,
        intermediate_size=24576,
        rotary_pct=0.25,
        max_position_embeddings=2048,
        hidden_act="gelu_fast",
        attn_implementation="sdpa",
    )
    torch.set_default_dtype(torch.float16)
    with torch.device("cuda"):  # weights are N(0, 0.02), biases 0, norms the identity
        model = transformers.GPTNeoXForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    return model


@torch.inference_mode()
def call(model, batch, length, tokens, options):
    """Seconds of a call of generate."""
    ids = torch.randint(5, 50000, (batch, length), device="cuda")
    torch.cuda.synchronize()
    start = time.perf_counter()
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        **options,
    )
    torch.cuda.synchronize()
    assert made.shape == (batch, length + tokens)
    return time.perf_counter() - start


def cell(model, batch, length, options):
    for tokens in (2, 1 + NEW) if options else (2,):  # what is compiled or made at the first use
        call(model, batch, length, tokens, options)
    first = median(call(model, batch, length, 1, options) for _ in range(ROUNDS))
    whole = median(call(model, batch, length, 1 + NEW, options) for _ in range(ROUNDS))
    return {"first_token_ms": round(first * 1e3, 2), "token_ms": round((whole - first) / NEW * 1e3, 3)}


@torch.inference_mode()
def products(model, rows):
    """Milliseconds of all matrix products of a step with so many rows."""
    weights = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    inputs = {width: torch.randn(rows, width, device="cuda", dtype=torch.float16) for width in {w.shape[1] for w in weights}}
    outs = {width: torch.empty(rows, width, device="cuda", dtype=torch.float16) for width in {w.shape[0] for w in weights}}

    def run():
        for weight in weights:
            torch.mm(inputs[weight.shape[1]], weight.t(), out=outs[weight.shape[0]])

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times = []
    for _ in range(9):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return {"rows": rows, "products_ms": round(median(times), 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=44)
    parser.add_argument("--cells", default="1x128,8x128,8x512,32x512,1x1920", metavar="BxP,...")
    parser.add_argument("--rows", default="1,8,32,64", metavar="N,...", help="of the products alone")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    model = make_model(args.layers)
    about = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(about | {"layers": args.layers}), flush=True)
    for rows in map(int, args.rows.split(",")):
        print(json.dumps(products(model, rows)), flush=True)
    options = {"cache_implementation": "static"} if args.compile else {}
    for batch, length in (map(int, text.split("x")) for text in args.cells.split(",") if text):
        print(json.dumps({"cell": f"{batch}x{length}"} | cell(model, batch, length, options)), flush=True)


if __name__ == "__main__":
    main()

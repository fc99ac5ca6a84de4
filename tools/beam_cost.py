# SPDX-License-Identifier: Apache-2.0
"""What a beam costs: the median time of a decode step by beam width, beside that of one greedy request and the time to read the weights.

python tools/beam_cost.py [--model FOLDER] [--device cuda] [--dtype float16] [--widths 1,2,4,8,16]

Without --model: random weights of Pythia-160m's shape.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from neoxnative import Engine, SamplingParams
from neoxnative._core import read_bandwidth

SHAPE = {
    "model_type": "gpt_neox",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 50304,
    "max_position_embeddings": 2048,
    "hidden_act": "gelu",
    "eos_token_id": 0,
    "torch_dtype": "float32",
}
PROMPT, STEPS, ROUNDS = 128, 40, 3


def step_time(engine, width):
    """Seconds, and the positions that went through the model for the prompt."""
    computed = engine.stats.tokens_computed
    params = SamplingParams(max_tokens=STEPS, temperature=0, ignore_eos=True, beam_width=width, early_stopping="never")
    engine.submit([7 * i % 1000 + 1 for i in range(PROMPT)], params)
    times = []
    while engine.has_work():
        start = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - start)
    prompt = engine.stats.tokens_computed - computed - (STEPS - 1) * width
    return statistics.median(times[3:]), prompt


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--load-format", default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--widths", default="1,2,4,8,16")
    args = parser.parse_args()
    widths = [int(width) for width in args.widths.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(SHAPE))
        load_format = args.load_format or ("auto" if args.model else "dummy")
        engine = Engine(args.model or folder, load_format=load_format, device=args.device, dtype=args.dtype, enable_prefix_caching=False)
    rounds = [[step_time(engine, width) for width in widths] for _ in range(ROUNDS)]
    medians = [statistics.median(one[i][0] for one in rounds) for i in range(len(widths))]
    print(f"{engine.info.device_detail}, {engine.info.dtype}, prompt of {PROMPT} tokens, {STEPS} steps, median of {ROUNDS} rounds")
    if args.device == "cpu":
        read = engine.info.weight_bytes / read_bandwidth(0)
        print(f"{'reading the weights once':<26}{read * 1e3:9.2f} ms")
    for i, width in enumerate(widths):
        prompts = {one[i][1] for one in rounds}
        ratio = medians[i] / medians[0]
        print(f"width {width:<20}{medians[i] * 1e3:9.2f} ms  {ratio:.2f} of width {widths[0]}; prompt tokens computed: {prompts}")


main()

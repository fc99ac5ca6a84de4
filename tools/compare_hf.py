# SPDX-License-Identifier: Apache-2.0
"""The engine against HuggingFace, live. Needs torch, transformers and neoxnative.

python tools/compare_hf.py grid [--first N] [--count N]     tiny models of every architecture (tests/python/grid.py) on the CPU, in float32;
                                                            about ten minutes on two cores
python tools/compare_hf.py shapes [--device cuda] ...       random models in the shapes of well-known ones, in every type (hf_shapes.py)
"""

import argparse
import sys
import tempfile
import time

import numpy as np

import hf_shapes
from hf_peer import Peer, grid, models, reference
from neoxnative import Engine, SamplingParams

GREEDY = SamplingParams(max_tokens=grid.NEW_TOKENS, temperature=0, ignore_eos=True)


def compare_tokens(engine, ids, mine, golden, vocab):
    """Of one prompt: steps that differ where the peer's best two are within both engines' error, and steps that differ beyond."""
    tokens, gaps, norms = golden
    if np.array_equal(mine, tokens):
        return 0, 0
    fed = np.concatenate([ids, tokens[:-1]]).astype(np.int32)  # the peer's token is fed, and the comparison goes on
    forced = engine.forward(fed[None])[0, len(ids) - 1 :].argmax(-1)
    permitted = wrong = 0
    for step in np.flatnonzero(forced != tokens):
        allowed = gaps[step] <= grid.permitted_gap(norms[step], vocab)
        print(f"  prompt of {len(ids)}, step {step}: {forced[step]} for {tokens[step]}, gap {gaps[step]:.1e}{'' if allowed else ': WRONG'}")
        permitted, wrong = permitted + allowed, wrong + (not allowed)
    return permitted, max(wrong, int(permitted + wrong == 0))  # generate and forward must not differ from each other


def compare(model):
    """The largest relative error of the logits, and permitted and wrong steps."""
    ids = models.prompt(grid.PROMPT_SEED, max(grid.PROMPT_LENGTHS), model.vocab)
    with tempfile.TemporaryDirectory() as folder:
        models.write(model, folder)
        peer, engine = Peer(folder), Engine(folder, dtype="float32", device="cpu")
    want, got = peer.logits(ids), engine.forward(ids[None])[0]
    error = max(reference.relative_error(got[n - 1], want[n - 1]) for n in grid.PROMPT_LENGTHS)
    prompts = [ids[:n] for n in grid.PROMPT_LENGTHS]
    outputs = engine.generate([p.tolist() for p in prompts], GREEDY)
    steps = [
        compare_tokens(engine, p, np.array(o.outputs[0].token_ids), peer.greedy(p, grid.NEW_TOKENS), model.vocab)
        for p, o in zip(prompts, outputs)
    ]
    return error, sum(s[0] for s in steps), sum(s[1] for s in steps)


def compare_grid(args):
    made = grid.models_of(grid.all_rows())[args.first :][: args.count]
    worst, permitted, wrong, start = 0.0, 0, 0, time.time()
    for i, model in enumerate(made):
        error, p, w = compare(model)
        worst, permitted, wrong = max(worst, error), permitted + p, wrong + w
        print(f"{args.first + i} {grid.name_of(model)}: error {error:.1e}", flush=True)
    tokens = len(made) * len(grid.PROMPT_LENGTHS) * grid.NEW_TOKENS
    print(f"{len(made)} models in {time.time() - start:.0f} s: largest relative error {worst:.1e} (allowed {grid.ERROR:.0e})")
    print(f"{tokens} greedy tokens: {permitted} permitted differences, {wrong} wrong")
    return worst <= grid.ERROR and wrong == 0 and permitted <= 3e-4 * tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="grid|shapes")
    command = commands.add_parser("grid")
    command.add_argument("--first", type=int, default=0)
    command.add_argument("--count", type=int)
    command.set_defaults(run=compare_grid)
    command = commands.add_parser("shapes")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    command.add_argument("--shape", action="append", choices=hf_shapes.SHAPES, help="all but tiny unless named; may be repeated")
    command.add_argument("--attention", action="append", choices=hf_shapes.ATTENTIONS, help="all unless named; may be repeated")
    shapes = [name for name in hf_shapes.SHAPES if name != "tiny"]
    command.set_defaults(run=lambda a: hf_shapes.run(a.device, a.shape or shapes, a.attention or [*hf_shapes.ATTENTIONS]))
    args = parser.parse_args()
    return not args.run(args)


sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Beam search against HuggingFace's `generate(num_beams=...)`: tokens and scores of every hypothesis, over the whole grid.

python tools/compare_beams.py            compares; exit code 1 where a hypothesis differs by more than a near tie
python tools/compare_beams.py --goldens  writes tests/data/beams.npz: HuggingFace's answers to a part of the grid
                                         needs torch and transformers
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from hf_peer import TESTS

import beam_cases  # isort: skip
import models  # isort: skip
from neoxnative import Engine

DEMO = TESTS.parent / "python/neoxnative/models/classics-7m"
ERROR = 1e-4


def peer_of(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def search(peer, prompt, width, length_penalty, early_stopping, theirs):
    """Hypotheses (ids, score), best first, and the sum of the first one's log-probs by compute_transition_scores."""
    peer.generation_config.eos_token_id = theirs.get("eos_token_id", peer.config.eos_token_id)
    with torch.no_grad():
        out = peer.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=beam_cases.NEW_TOKENS,
            num_beams=width,
            num_return_sequences=width,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            do_sample=False,
            pad_token_id=0,
            output_scores=True,
            output_logits=True,
            return_dict_in_generate=True,
            **{name: value for name, value in theirs.items() if name != "eos_token_id"},
        )
    lengths = (out.beam_indices >= 0).sum(1).tolist()
    made = [sequence[len(prompt) : len(prompt) + n].tolist() for sequence, n in zip(out.sequences, lengths)]
    normalised = [torch.log_softmax(step, -1) for step in out.logits]
    sums = peer.compute_transition_scores(out.sequences, normalised, out.beam_indices).sum(1).tolist()
    return list(zip(made, out.sequences_scores.tolist(), sums))


def cases(peer):
    eos = peer.config.eos_token_id
    for name, variant in beam_cases.variants(eos, 5).items():
        for width, length_penalty, early_stopping in beam_cases.GRID:
            yield name, variant, width, length_penalty, early_stopping


def compare(label, folder):
    peer, engine = peer_of(folder), Engine(folder, dtype="float32")
    prompts = beam_cases.prompts(engine.info.vocab)
    asked, wanted, names = [], [], []
    for name, variant, *point in cases(peer):
        for prompt in prompts:
            asked.append((prompt, beam_cases.params(*point, variant)))
            wanted.append(search(peer, prompt, *point, variant.theirs))
            names.append(f"{label} {name} {point} prompt of {len(prompt)}")
    outputs = engine.generate([prompt for prompt, _ in asked], [params for _, params in asked])  # all in one batch
    hypotheses = different = ended = 0
    worst = worst_sum = 0.0
    for name, output, want in zip(names, outputs, wanted):
        for made, (ids, score, total) in zip(output.outputs, want, strict=True):
            hypotheses += 1
            ended += made.finish_reason == "stop"
            error = abs(made.score - score) / max(1, abs(score))
            if made.token_ids != ids:
                different += 1
                print(f"{name}: hypothesis {made.index} has {made.token_ids} of score {made.score:.6f}, expected {ids} of {score:.6f}")
            else:
                worst, worst_sum = max(worst, error), max(worst_sum, abs(made.cumulative_logprob - total))
    print(
        f"{label}: {len(names)} searches, {hypotheses} hypotheses, {ended} ended by EOS, {different} differ; "
        f"largest error of scores {worst:.1e}, of sums of log-probs {worst_sum:.1e}",
        flush=True,
    )
    return different == 0 and worst <= ERROR and worst_sum <= ERROR


def goldens():
    """Of each random model and variant, each point of the grid with one prompt in turn."""
    columns = {"ids": [], "lengths": [], "scores": [], "sums": []}
    for model in beam_cases.MODELS.values():
        with tempfile.TemporaryDirectory() as folder:
            peer = peer_of(models.write(model, folder))
        for i, (_, variant, *point) in enumerate(cases(peer)):
            prompt = beam_cases.prompts(model.vocab)[i % len(beam_cases.PROMPT_LENGTHS)]
            for ids, score, total in search(peer, prompt, *point, variant.theirs):
                columns["ids"].append(np.pad(ids, (0, beam_cases.NEW_TOKENS - len(ids))).astype(np.uint8))
                columns["lengths"].append(len(ids))
                columns["scores"].append(score)
                columns["sums"].append(total)
    made = {"ids": np.stack(columns["ids"]), "lengths": np.array(columns["lengths"], np.uint8)}
    made |= {name: np.array(columns[name], np.float32) for name in ("scores", "sums")}
    made["peer"] = np.array(f"torch {torch.__version__}, transformers {transformers.__version__}, float32, eager attention")
    path = TESTS / "data/beams.npz"
    np.savez_compressed(path, **made)
    print(path, path.stat().st_size, "bytes,", len(made["ids"]), "hypotheses")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goldens", action="store_true")
    if parser.parse_args().goldens:
        goldens()
        return 0
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for label, model in beam_cases.MODELS.items():
            good &= compare(label, models.write(model, Path(folder) / label))
    return int(not (good & compare("demo", DEMO)))


sys.exit(main())

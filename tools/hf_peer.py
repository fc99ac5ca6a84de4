# SPDX-License-Identifier: Apache-2.0
"""HuggingFace's logits and greedy tokens, in float32 with eager attention: what the engine is compared with."""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS / "python"))  # what the tests and the tools here share

import grid  # noqa: E402
import models  # noqa: E402
import reference  # noqa: E402

__all__ = ["Peer", "TESTS", "grid", "models", "reference"]


torch.set_num_threads(1)  # on matrices this small, more threads only wait for each other


class Peer:
    def __init__(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None  # the comparison goes on after an EOS

    @torch.no_grad()
    def logits(self, ids):
        """[len(ids), vocab]"""
        return self.model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()

    @torch.no_grad()
    def greedy(self, ids, count):
        """tokens [count], and of each step's logits the gap between the best two and the norm."""
        prompt = torch.from_numpy(ids.astype(np.int64))[None]
        made = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        logits = torch.cat(made.logits)
        best = logits.topk(2).values
        tokens = made.sequences[0, len(ids) :].numpy().astype(np.int32)
        assert len(tokens) == count
        return tokens, (best[:, 0] - best[:, 1]).numpy(), logits.norm(dim=1).numpy()

# SPDX-License-Identifier: Apache-2.0
"""What HuggingFace makes of the requests of tests/python/prompt_cases.py, from past_key_values and inputs_embeds -> tests/data/prompts.npz.

python tools/make_prompt_goldens.py
"""

import tempfile

import numpy as np
import torch
from transformers import DynamicCache, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

import hf_peer
import prompt_cases


class PromptPeer(hf_peer.Peer):
    def __init__(self, model, folder):
        super().__init__(folder)
        self.spec, self.tasks = model, prompt_cases.tasks(model)

    def parts(self, case):
        """The prefix [layers, 2, heads, length, head_dim] or None, the embeddings of all that follows, and the real ids."""
        task, vocab = self.tasks.get(case.task), self.spec.vocab
        table = self.model.get_input_embeddings().weight
        rows, prefix = [], None
        if task is not None and task.ndim == 5:
            prefix = torch.from_numpy(task)
        elif task is not None:
            table = torch.cat([table, torch.from_numpy(task)])
            if all(token < vocab for token in case.ids):
                rows.append(torch.from_numpy(task))
        if case.soft:
            rows.append(torch.from_numpy(case.embeds(self.spec)))
        rows.append(table[torch.tensor(case.ids, dtype=torch.long)])
        return prefix, torch.cat(rows)[None], [token for token in case.ids if token < vocab]

    def cache(self, prefix, rows):
        cache = DynamicCache()
        for layer, (k, v) in enumerate(prefix if prefix is not None else ()):
            cache.update(k.expand(rows, *k.shape).clone(), v.expand(rows, *v.shape).clone(), layer)
        return cache

    @torch.no_grad()
    def greedy(self, case):
        """tokens, their log-probs before the penalty, and the prompt's log-probs: NaN where a token has none."""
        prefix, x, real = self.parts(case)
        cache = self.cache(prefix, 1)
        logits = self.model(inputs_embeds=x, past_key_values=cache, use_cache=True).logits[0]
        scores = np.full(len(case.ids), np.nan, np.float32)
        for i, token in enumerate(case.ids):
            row = x.shape[1] - len(case.ids) + i - 1
            if row >= 0 and token < self.spec.vocab:
                scores[i] = logits[row].log_softmax(-1)[token]
        processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(case.penalty)] if case.penalty != 1 else [])
        seen, tokens, logprobs = list(real), [], []
        for _ in range(case.new):
            row = logits[-1:]
            edited = processors(torch.tensor([seen], dtype=torch.long), row.clone())
            best = edited[0].topk(2)
            assert best.values[0] - best.values[1] > prompt_cases.LEAST_GAP, f"a tie in {case}: take another seed"
            token = int(best.indices[0])
            tokens.append(token)
            seen.append(token)
            logprobs.append(float(row[0].log_softmax(-1)[token]))
            logits = self.model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True).logits[0]
        return tokens, logprobs, scores

    @torch.no_grad()
    def beam(self, case):
        """The best hypotheses' tokens and scores. A prefix stands in the cache in the place of ids that generate then does not look at."""
        prefix, x, _ = self.parts(case)
        if prefix is None:
            inputs = {"inputs_embeds": x, "attention_mask": torch.ones(x.shape[:2], dtype=torch.long)}
            skip = 0
        else:
            ids = torch.tensor([[0] * prefix.shape[3] + list(case.ids)])
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "past_key_values": self.cache(prefix, case.beams)}
            skip = ids.shape[1]
        out = self.model.generate(
            **inputs,
            num_beams=case.beams,
            num_return_sequences=case.beams,
            max_new_tokens=case.new,
            do_sample=False,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
        )
        return out.sequences[:, skip:].numpy(), out.sequences_scores.numpy()


def main():
    made = {}
    for m, model in enumerate(prompt_cases.MODELS):
        with tempfile.TemporaryDirectory() as folder:
            peer = PromptPeer(model, hf_peer.models.write(model, folder))
            for c, case in enumerate(prompt_cases.cases(model)):
                names = ("beams", "beam_scores") if case.beams > 1 else ("tokens", "logprobs", "prompt_logprobs")
                results = peer.beam(case) if case.beams > 1 else peer.greedy(case)
                for name, value in zip(names, results):
                    array = np.asarray(value)
                    made[f"{m}/{c}/{name}"] = array.astype(np.float32 if array.dtype.kind == "f" else np.int16)
    np.savez_compressed(hf_peer.TESTS / "data/prompts.npz", **made)


if __name__ == "__main__":
    main()

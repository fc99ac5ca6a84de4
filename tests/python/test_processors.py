# SPDX-License-Identifier: Apache-2.0
"""Penalties, biases, bans and stops against plain numpy over the logits of `forward`, and as properties of random requests."""

import random

import numpy as np
import pytest

import models
from models import Model
from neoxnative import Engine, SamplingParams

MODEL = Model(seed=21, heads=2, head_dim=24, intermediate=100, vocab=67, max_positions=256)
EOS = 0


def processed(logits, tokens, prompt_length, p):
    """The logits of the token after `tokens`, as they are drawn from: HuggingFace's processors in its order."""
    z = logits.astype(np.float64)
    output = tokens[prompt_length:]
    for token, bias in (p.logit_bias or {}).items():
        z[token] += bias
    for token in set(tokens):
        z[token] = z[token] * p.repetition_penalty if z[token] < 0 else z[token] / p.repetition_penalty
    for token in set(output):
        z[token] -= p.presence_penalty + p.frequency_penalty * output.count(token)
    n = p.no_repeat_ngram_size
    for i in range(len(tokens) - n + 1 if n else 0):
        if n == 1 or tokens[i : i + n - 1] == tokens[len(tokens) - n + 1 :]:
            z[tokens[i + n - 1]] = -np.inf
    for phrase in p.bad_words:
        if len(phrase) == 1 or tuple(tokens[-len(phrase) + 1 :]) == phrase[:-1]:
            z[phrase[-1]] = -np.inf
    if len(output) < p.min_tokens:
        z[[EOS, *p.stop_token_ids]] = -np.inf
    if p.allowed_token_ids is not None:
        z[[token for token in range(len(z)) if token not in p.allowed_token_ids]] = -np.inf
    return z


CHOICES = {
    "repetition_penalty": [1.3, 0.8, 5.0],
    "presence_penalty": [0.7, -1.0],
    "frequency_penalty": [0.5, 2.0],
    "logit_bias": [{3: 4.0, 7: -100.0, 0: 5.0}, {EOS: -3.5, 12: 2.0}],
    "no_repeat_ngram_size": [1, 2, 3],
    "bad_words": [[[5], [EOS], [3, 4]], [[i, j] for i in range(0, 60, 2) for j in range(20)]],
    "min_tokens": [6],
    "allowed_token_ids": [list(range(0, 60, 3)), [0, *range(5, 40)]],
}


def cases():
    alone = [{name: value} for name, values in CHOICES.items() for value in values]
    rng = random.Random(1)
    joined = [{name: rng.choice(values) for name, values in CHOICES.items() if rng.random() < 0.6} for _ in range(40)]
    return alone + joined


@pytest.mark.parametrize("ahead", [False, True])
def test_every_edit_alone_and_combined_gives_the_greedy_tokens_of_plain_numpy(folder_of, ahead):
    engine = Engine(folder_of(MODEL), dtype="float32", device="cpu", async_scheduling=ahead)
    prompts = [models.prompt(i, 1 + i % 40, MODEL.vocab).tolist() for i in range(len(cases()))]
    params = [SamplingParams(max_tokens=25, temperature=0, **case) for case in cases()]
    for prompt, p, output in zip(prompts, params, engine.generate(prompts, params)):
        made = output.outputs[0]
        logits = engine.forward([prompt + made.token_ids])[0]
        for i, token in enumerate(made.token_ids):
            z = processed(logits[len(prompt) + i - 1], prompt + made.token_ids[:i], len(prompt), p)
            assert z[token] >= z.max() - 1e-4, f"{p}, token {i}"
            row = logits[len(prompt) + i - 1].astype(np.float64)
            logprob = row[token] - row.max() - np.log(np.exp(row - row.max()).sum())
            assert made.token_logprobs[i] == pytest.approx(logprob, abs=1e-5), "log-probs are the model's own"
        if made.finish_reason == "error":
            z = processed(logits[-1], prompt + made.token_ids, len(prompt), p)
            assert np.isneginf(z).all()
            assert "every token is banned" in str(made.error)
        elif made.finish_reason == "length":
            assert len(made.token_ids) == 25
        else:
            assert made.token_ids[-1] == EOS


def test_draws_of_edited_rows_follow_the_edited_distribution(folder_of):
    engine = Engine(folder_of(MODEL), dtype="float32", device="cpu")
    prompt = models.prompt(3, 20, MODEL.vocab).tolist()
    p = SamplingParams(
        max_tokens=1, temperature=0.8, repetition_penalty=1.4, logit_bias={5: 3.0}, bad_words=[[9], [0]], seed=4, n=256, ignore_eos=True
    )
    z = processed(engine.forward([prompt])[0, -1], prompt, len(prompt), p) / 0.8
    want = np.exp(z - z.max())
    want /= want.sum()
    many = [SamplingParams(**{name: getattr(p, name) for name in p.__slots__} | {"seed": seed}) for seed in range(20)]
    outputs = engine.generate([prompt] * 20, many)
    seen = np.bincount([c.token_ids[0] for output in outputs for c in output.outputs], minlength=MODEL.vocab)
    assert (seen[want == 0] == 0).all()
    expected = want * seen.sum()
    large = expected > 20
    assert (np.abs(seen - expected)[large] < 6 * np.sqrt(expected[large])).all()


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory):
    """Tokens of one to three bytes over a small alphabet, so that texts meet across token borders."""
    import tokenizers

    folder = models.write(
        Model(seed=5, heads=2, head_dim=16, intermediate=64, vocab=100, max_positions=128), tmp_path_factory.mktemp("bytes")
    )
    rng = random.Random(3)
    pieces = list(dict.fromkeys(["<eos>", *"abcde", *("".join(rng.choices("abcde", k=rng.choice([2, 3]))) for _ in range(300))]))[:100]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="a"))
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder, ["" if piece == "<eos>" else piece for piece in pieces]


def random_request(rng, pieces):
    prompt = rng.choices(range(1, 100), k=rng.randint(1, 12))
    text = "".join(pieces[token] for token in prompt)
    bad: list = []
    stop: list = []

    def phrase(n):
        return "".join(rng.choices("abcde", k=n))

    for _ in range(rng.randint(0, 3)):
        bad.append(phrase(rng.randint(2, 4)))
    if rng.random() < 0.5:
        bad.append(text[-rng.randint(1, 2) :] + phrase(1))  # begins in the prompt
    for _ in range(rng.randint(0, 2)):
        bad.append(rng.choices(range(100), k=rng.randint(1, 3)))
    if rng.random() < 0.3:
        bad.append([prompt[-1], rng.randrange(100)])
    for _ in range(rng.randint(0, 2)):
        stop.append(phrase(rng.randint(2, 3)))
    if rng.random() < 0.3:
        stop.append(text[-rng.randint(1, 2) :] + phrase(1))  # begins in the prompt
    for _ in range(rng.randint(0, 4)):
        stop.append(rng.choices(range(100), k=rng.randint(1, 2)))
    if rng.random() < 0.3:
        stop.append([prompt[-1], rng.randrange(100)])
    fields = {"bad_words": bad, "stop": stop, "ignore_eos": rng.random() < 0.5, "seed": rng.randrange(2**32)}
    fields |= {"temperature": rng.choice([0, 1, 2]), "repetition_penalty": rng.choice([1, 1.2]), "n": rng.choice([1, 1, 2])}
    return prompt, SamplingParams(max_tokens=rng.randint(1, 20), **fields)


def holds(tokens, phrase):
    return any(tuple(tokens[i : i + len(phrase)]) == tuple(phrase) for i in range(len(tokens)))


def test_in_ten_thousand_random_requests_banned_phrases_never_occur_and_stop_phrases_always_end(byte_model):
    folder, pieces = byte_model
    engine = Engine(folder, dtype="float32", device="cpu", max_num_batched_tokens=200)
    assert [engine.tokenizer.bytes_table()[i].decode() for i in range(100)] == pieces
    rng = random.Random(7)
    requests = [random_request(rng, pieces) for _ in range(10000)]
    outputs = engine.generate([prompt for prompt, _ in requests], [params for _, params in requests])
    ends = {"stop": 0, "length": 0, "error": 0}
    for (prompt, p), output in zip(requests, outputs):
        before = "".join(pieces[token] for token in prompt)
        for made in output.outputs:
            ends[made.finish_reason] += 1
            new = "".join(pieces[token] for token in made.token_ids)
            for phrase in p.bad_words:
                if isinstance(phrase, str):
                    found = (before + new).find(phrase, max(0, len(before) - len(phrase) + 1))
                    assert found < 0, f"{phrase} occurs: {before}|{new}"
                else:
                    last = len(phrase) - 1
                    assert not holds((prompt[-last:] if last else []) + made.token_ids, phrase)
            tokens = prompt + made.token_ids
            stopped = [s for s in p.stop if isinstance(s, tuple) and tuple(tokens[-len(s) :]) == s and made.token_ids]
            for phrase in p.stop:
                if isinstance(phrase, str):
                    border = before[len(before) - len(phrase) + 1 :] if len(before) >= len(phrase) else before  # where it may begin
                    assert phrase not in border + made.text, "the text ends before a stop string"
                    assert phrase not in border + "".join(pieces[token] for token in made.token_ids[:-1])
                    if phrase in border + new:
                        stopped.append(phrase)
                else:
                    border = (prompt[1 - len(phrase) :] if len(phrase) > 1 else []) + made.token_ids
                    assert not holds(border[:-1], phrase), "nothing comes after a stop phrase"
            if stopped:
                assert made.finish_reason == "stop"
            elif made.finish_reason == "stop":
                assert made.token_ids[-1] == EOS and not p.ignore_eos
    assert min(ends["stop"], ends["length"]) > 1000


def test_a_decaying_top_p_bounds_every_draw_and_starts_again_at_its_reset_id(folder_of):
    engine = Engine(folder_of(MODEL), dtype="float32", device="cpu")
    prompt = models.prompt(8, 10, MODEL.vocab).tolist()
    resets = narrowed = 0
    for seed in range(40):
        p = SamplingParams(
            max_tokens=30, temperature=3, top_p=0.95, top_p_decay=0.6, top_p_min=0.3, top_p_reset_id=seed % 9, seed=seed, ignore_eos=True
        )
        made = engine.generate([prompt], p)[0].outputs[0].token_ids
        logits = engine.forward([prompt + made])[0].astype(np.float64) / p.temperature
        top_p = p.top_p
        for i, token in enumerate(made):
            z = logits[len(prompt) + i - 1]
            share = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            assert share[share > share[token]].sum() < top_p + 1e-5
            narrowed += top_p < 0.5
            resets += token == p.top_p_reset_id
            top_p = p.top_p if token == p.top_p_reset_id else max(top_p * p.top_p_decay, p.top_p_min)
    assert resets > 10 and narrowed > 100


BAD = [
    ({"repetition_penalty": -1.0}, "repetition_penalty is -1, expected more than 0 and at most 100"),
    ({"presence_penalty": 3.0}, "presence_penalty is 3, expected -2 to 2"),
    ({"frequency_penalty": float("nan")}, "frequency_penalty is nan, expected -2 to 2"),
    ({"logit_bias": {1: 101.0}}, "logit_bias is 101 for id 1, expected -100 to 100"),
    ({"logit_bias": {-1: 1.0}}, "logit_bias has the id -1, expected 0 or more"),
    ({"min_tokens": 20}, r"min_tokens is 20, expected 0 to max_tokens \(16\)"),
    ({"typical_p": 0.0}, "typical_p is 0, expected more than 0 and at most 1"),
    ({"top_p_decay": 1.5}, "top_p_decay is 1.5, expected more than 0 and at most 1"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1, expected 0"),
    ({"bad_words": [[]]}, "bad_words holds an empty list"),
    ({"bad_words": [""]}, "bad_words holds an empty string"),
    ({"stop": [[-3]]}, "stop holds -3, expected ids of 0 or more"),
    ({"allowed_token_ids": []}, "allowed_token_ids is empty"),
]


@pytest.mark.parametrize(("fields", "message"), BAD, ids=[str(fields) for fields, _ in BAD])
def test_bad_values_name_field_value_and_range(fields, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bad_words": [[1] * 257]}, "bad_words holds a phrase of 257 ids, expected at most max_model_len 256"),
        ({"stop": [[1] * 300]}, "stop holds a phrase of 300 ids, expected at most max_model_len 256"),
        ({"logit_bias": {67: 1.0}}, "logit_bias holds 67, expected ids of the vocabulary, 0 to 66"),
        ({"allowed_token_ids": [100]}, "allowed_token_ids holds 100, expected ids of the vocabulary, 0 to 66"),
        ({"bad_words": ["x"]}, "no vocabulary"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_at_submit(folder_of, fields, message):
    engine = Engine(folder_of(MODEL), dtype="float32", device="cpu")
    with pytest.raises(ValueError, match=message):
        engine.submit([1, 2], SamplingParams(**fields))
    assert not engine.has_work()

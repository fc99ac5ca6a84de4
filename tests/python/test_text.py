# SPDX-License-Identifier: Apache-2.0
"""Text as it comes: stop strings across token borders, whole characters, the demo model's own tokenizer."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tokenizers

import models
from models import Model
from neoxnative import Engine, SamplingParams

PROMPT = "It was a dark and stormy night"


@pytest.fixture(scope="module")
def demo():
    return Engine()


@pytest.fixture(scope="module")
def free(demo):
    """What the demo model says when nothing stops it."""
    return demo.generate(PROMPT, SamplingParams(max_tokens=80, temperature=0, ignore_eos=True))[0].outputs[0]


def stops_inside(text):
    """Strings of several lengths that occur in the text, many of them across the borders of tokens."""
    return [text[i : i + n] for n in (1, 2, 3, 7, 20) for i in range(5, len(text) - n, 17)]


def test_a_stop_string_ends_the_text_where_it_first_is_complete(demo, free):
    for stop in stops_inside(free.text):
        for include in (False, True):
            params = SamplingParams(max_tokens=80, temperature=0, ignore_eos=True, stop=stop, include_stop_str_in_output=include)
            made = demo.generate(PROMPT, params)[0].outputs[0]
            begin = free.text.index(stop)
            assert made.text == free.text[: begin + (len(stop) if include else 0)]
            assert (made.finish_reason, made.stop_reason) == ("stop", stop)
            assert made.token_ids == free.token_ids[: len(made.token_ids)]
            assert stop in demo.tokenizer.decode(made.token_ids)
            assert stop not in demo.tokenizer.decode(made.token_ids[:-1])


def test_streamed_pieces_join_to_the_text_and_never_show_a_part_of_a_stop_string(demo, free):
    for stop in stops_inside(free.text)[::3]:
        shown = ""
        for piece in demo.stream(PROMPT, SamplingParams(max_tokens=80, temperature=0, ignore_eos=True, stop=[stop, "never this"])):
            shown += piece.text
            assert free.text.startswith(shown)
            assert len(shown) <= free.text.index(stop)
        assert shown == free.text[: free.text.index(stop)]


def test_what_only_looked_like_a_stop_string_is_shown_in_the_end(demo, free):
    stop = free.text[-3:] + "no such continuation"
    made = demo.generate(PROMPT, SamplingParams(max_tokens=80, temperature=0, ignore_eos=True, stop=stop))[0].outputs[0]
    assert made.text == free.text


@pytest.mark.parametrize("beam_width", [1, 2])
def test_a_stop_string_may_begin_in_the_prompt_and_ends_in_the_output(demo, beam_width):
    params = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True, beam_width=beam_width)
    text = demo.generate(PROMPT, params)[0].outputs[0].text
    for before, after in ((1, 1), (5, 3), (len(PROMPT), 8)):
        stop = PROMPT[len(PROMPT) - before :] + text[:after]
        # Short hypotheses are the best, so that one which ended is among them.
        search = {"beam_width": beam_width, "n": beam_width, "stop": [stop, "never this"], "length_penalty": -5.0}
        params = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True, **search)
        ended = [made for made in demo.generate(PROMPT, params)[0].outputs if made.stop_reason == stop]
        assert "" in [made.text for made in ended]  # it may be there again later, in another hypothesis
        assert not any(stop in made.text for made in ended)
        kept = demo.generate(PROMPT, replace(params, include_stop_str_in_output=True))[0].outputs
        assert text[:after] in [made.text for made in kept if made.stop_reason == stop]
    inside = PROMPT[-7:-2]  # complete before the output begins: it ends nothing
    assert inside not in text
    for stop in inside, PROMPT[-4:]:
        params = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True, beam_width=beam_width, stop=stop)
        assert demo.generate(PROMPT, params)[0].outputs[0].text == text


def test_stop_strings_do_not_count_before_min_tokens(demo, free):
    first = free.text[:2]
    params = SamplingParams(max_tokens=80, min_tokens=20, temperature=0, ignore_eos=True, stop=first)
    made = demo.generate(PROMPT, params)[0].outputs[0]
    assert len(made.token_ids) >= 20


@pytest.mark.parametrize("include", (False, True))
def test_a_stop_that_min_tokens_passed_over_ends_nothing_while_a_longer_one_holds_it_back(demo, free, include):
    for k in range(2, 40, 3):
        first, longer = demo.tokenizer.decode(free.token_ids[k : k + 1]), demo.tokenizer.decode(free.token_ids[k : k + 2]) + "~"
        common = {"max_tokens": 80, "min_tokens": k + 2, "temperature": 0, "ignore_eos": True, "include_stop_str_in_output": include}
        alone, both = (demo.generate(PROMPT, SamplingParams(**common, stop=stop))[0].outputs[0] for stop in ([first], [first, longer]))
        assert (both.token_ids, both.text, both.stop_reason) == (alone.token_ids, alone.text, alone.stop_reason)


def byte_model(tmp_path):
    """A model whose tokens are single bytes: every character beyond ASCII comes in pieces."""
    from neoxnative.tokenizer import _BYTES

    vocab = dict(_BYTES)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    folder = models.write(Model(seed=2, vocab=300, head_dim=16), tmp_path / "bytes")
    tokenizer.save(str(folder / "tokenizer.json"))
    return Engine(folder)


def test_pieces_are_whole_characters_and_join_to_what_python_decodes(tmp_path):
    engine = byte_model(tmp_path)
    for seed in range(20):
        shown, ids = "", []
        for piece in engine.stream("käse", SamplingParams(max_tokens=200, temperature=2.0, seed=seed, ignore_eos=True)):
            piece.text.encode()  # no lone surrogates
            shown += piece.text
            ids += piece.token_ids
        assert max(ids) < 256, "an id past the tokenizer was drawn"
        assert shown == bytes(ids).decode("utf-8", errors="replace")


def test_a_stop_string_beyond_ascii_is_found_across_its_bytes(tmp_path):
    engine = byte_model(tmp_path)
    for seed in range(40):
        params = SamplingParams(max_tokens=400, temperature=2.0, seed=seed, ignore_eos=True, stop=["é", "ß", "ü", "Ā"])
        made = engine.generate("a", params)[0].outputs[0]
        if made.finish_reason == "stop":
            assert bytes(made.token_ids).decode("utf-8", errors="replace") == made.text + made.stop_reason
            return
    pytest.fail("no seed gave one of the characters")


def test_the_command_line_takes_a_file_and_stdin_and_prints_json(tmp_path, run_cli):
    file = tmp_path / "prompts.txt"
    file.write_text("Alice opened the door and\n\nMy dear Watson,\n")
    options = ["--max-tokens", "8", "--temperature", "0"]
    plain = run_cli("generate", "--file", str(file), *options)
    assert plain.stdout.startswith("Alice opened the door and")
    assert "\nMy dear Watson," in plain.stdout
    printed = run_cli("generate", "--file", "-", "--json", *options, input=file.read_text()).stdout
    described = [json.loads(line) for line in printed.splitlines()]
    assert [d["prompt"] for d in described] == ["Alice opened the door and", "My dear Watson,"]
    assert [d["prompt"] + d["outputs"][0]["text"] for d in described] == plain.stdout.splitlines()
    one = run_cli("generate", "-", *options, input="My dear Watson,\n")
    assert one.stdout.splitlines()[0] == plain.stdout.splitlines()[1]
    several = run_cli("generate", "Alice", "--n", "3", "--max-tokens", "4")
    assert len(several.stdout.splitlines()) >= 3
    wrong = run_cli("generate", "Alice", "--file", str(file), check=False)
    assert wrong.returncode == 2
    assert "expected one of them" in wrong.stderr


def test_logprobs_name_the_pieces(demo):
    made = demo.generate(PROMPT, SamplingParams(max_tokens=3, temperature=0, logprobs=2))[0].outputs[0]
    for token, entry, logprob in zip(made.token_ids, made.logprobs, made.token_logprobs):
        assert entry[token].logprob == logprob
        assert entry[token].decoded_token == demo.tokenizer.decode([token])
        assert len(entry) == 2
        assert all(np.exp(e.logprob) <= 1 for e in entry.values())

# SPDX-License-Identifier: Apache-2.0
"""tools/hftokenizer.py and the engine on GPT-NeoX-20B's own tokenizer, and on SentencePiece models."""

import builtins
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import models
from conftest import DATA
from models import Model
from neoxnative import Engine, SamplingParams
from neoxnative.tokenizer import open_tokenizer

TOOL = Path(__file__).resolve().parents[2] / "tools" / "hftokenizer.py"
GOLDEN = {
    "Hello world": [12092, 1533],
    "Hello, I am": [12092, 13, 309, 717],
    "    def f(x):\n\treturn x": [50274, 1545, 269, 9, 89, 2262, 187, 186, 2309, 1269],
    "<|endoftext|>a": [0, 66],
}


@pytest.fixture(scope="module")
def tokenizer_20b(tmp_path_factory):
    file = tmp_path_factory.mktemp("20b") / "20B_tokenizer.json"
    file.write_bytes(gzip.decompress((DATA / "20B_tokenizer.json.gz").read_bytes()))
    return file


@pytest.fixture
def tool(tokenizer_20b, tmp_path):
    def run(text, *arguments, tokenizer=tokenizer_20b, check=True):
        (tmp_path / "in").write_text(text)
        command = [sys.executable, TOOL, tmp_path / "in", "--tokenizer", tokenizer, *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done if not check else done.stdout

    return run


def test_the_engines_ids_of_the_20b_tokenizer_are_the_known_ones(tokenizer_20b, tmp_path):
    folder = models.write(Model(vocab=50432, layers=1, heads=1, head_dim=8, max_positions=64), tmp_path / "model")
    engine = Engine(folder, tokenizer=tokenizer_20b, device="cpu")
    for text, ids in GOLDEN.items():
        assert engine.tokenizer.encode(text) == ids
        assert engine.generate(text, SamplingParams(max_tokens=1, temperature=0))[0].prompt_token_ids == ids
    assert engine.tokenizer.decode(GOLDEN["Hello, I am"]) == "Hello, I am"


def test_the_tools_ids_of_the_20b_tokenizer_are_the_known_ones(tool):
    lines = [text for text in GOLDEN if "\n" not in text]
    assert tool("\n\n".join(lines)) == "\n---\n".join(",".join(map(str, GOLDEN[line])) for line in lines) + "\n"


@pytest.mark.parametrize("separator", (" ", ", ", ","))
def test_every_way_to_write_ids_is_read_back(separator, tool):
    rows = [GOLDEN["Hello world"], GOLDEN["Hello, I am"]]
    text = "".join(separator.join(map(str, row)) + ("" if "," in separator else " ") + "\n" for row in rows)
    assert tool(text) == "Hello world\n---\nHello, I am\n"
    assert tool(text, "--action", "detokenize") == tool(text)


def test_what_the_tool_writes_it_reads(tool, tmp_path):
    text = "Hello world\nThe ids 1, 2, 3\nHello, I am"
    tool(text, "--out-file", tmp_path / "ids")
    assert tool((tmp_path / "ids").read_text(), "--out-file", tmp_path / "text") == ""
    assert (tmp_path / "text").read_text() == text


def test_end_padding_is_not_seen_in_text(tool):
    assert tool("12092 1533 0 0 0 \n50431 12092 0 0 0 \n") == "Hello world\n---\nHello\n"


def test_ids_are_text_when_they_are_to_be_tokenized_and_text_is_never_detokenized(tool):
    assert tool("1,2", "--action", "tokenize") != tool("1,2")
    done = tool("Hello", "--action", "detokenize", check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: the file is not ids alone, expected on each line ids")
    assert tool("12 13\nHello 12") == tool("12 13\nHello 12", "--action", "tokenize")  # one line of text makes all of it text


def test_digits_that_are_no_id_are_text(tool):
    assert tool("4915123456789\n") == tool("4915123456789\n", "--action", "tokenize")


def test_a_missing_tokenizer_is_told(tool, tmp_path):
    done = tool("x", tokenizer=tmp_path / "none.json", check=False)
    assert done.returncode == 1 and "none.json is not a file: expected a tokenizer.json" in done.stderr


# SentencePiece


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
    """A small unigram model with rinna's features: bytes for what it does not know, control tokens, a user-defined <NL>."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("spiece")
    words = ["the", "night", "was", "dark", "and", "stormy", "こんにちは", "世界", "さようなら"]
    text = [" ".join(np.random.RandomState(i).choice(words, 8)) for i in range(400)]
    (folder / "text").write_text("\n".join(text), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "spiece"), vocab_size=400, byte_fallback=True, hard_vocab_limit=False,
        user_defined_symbols=["<NL>"], control_symbols=["[CLS]"], minloglevel=2, num_threads=1,
    )  # fmt: skip
    return folder


def test_a_spiece_model_is_a_models_tokenizer(spiece, tmp_path):
    folder = models.write(Model(vocab=512, layers=1, heads=1, head_dim=8, max_positions=64), tmp_path / "model")
    (folder / "spiece.model").write_bytes((spiece / "spiece.model").read_bytes())
    engine = Engine(folder, device="cpu")
    text = "the dark night さようなら<NL>é𝄞"
    ids = engine.tokenizer.encode(text)
    assert engine.tokenizer.decode(ids) == text and not {1, 2} & set(ids)  # neither BOS nor EOS
    out = engine.generate(text, SamplingParams(max_tokens=8, seed=1))[0]
    assert out.prompt_token_ids == ids and out.outputs[0].text
    table = engine.tokenizer.bytes_table()
    assert b"".join(table[i] for i in ids).decode() == " " + text  # SentencePiece puts a space in front, and takes it away
    assert table[1] == table[2] == b"" and engine.tokenizer.piece(1) == "<s>"


def test_what_the_config_says_of_lower_case_and_bos_counts(spiece, tmp_path):
    (tmp_path / "spiece.model").write_bytes((spiece / "spiece.model").read_bytes())
    plain = open_tokenizer(tmp_path).encode("the night")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "add_bos_token": True}))
    assert open_tokenizer(tmp_path).encode("The NIGHT") == [1, *plain]


def test_the_tool_takes_a_spiece_model(spiece, tool):
    ids = tool("the night さようなら", tokenizer=spiece)
    assert tool(ids.strip() + ",511", tokenizer=spiece / "spiece.model") == "the night さようなら\n"


def test_without_the_package_the_error_says_what_to_install(spiece, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "sentencepiece":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RuntimeError, match=r"pip install 'neoxnative\[sentencepiece\]'"):
        open_tokenizer(spiece)
    monkeypatch.undo()
    (spiece / "broken.model").write_bytes(b"x")
    with pytest.raises(ValueError, match="broken.model is not a model that SentencePiece reads"):
        open_tokenizer(spiece / "broken.model")

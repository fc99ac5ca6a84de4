# SPDX-License-Identifier: Apache-2.0
"""The tokenizer, and the table of bytes from which the engine makes text."""

import json
import random

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from neoxnative.engine import DEMO_MODEL
from neoxnative.tokenizer import Tokenizer, load_tokenizer


def byte_level(folder):
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Library(models.BPE({c: i for i, c in enumerate(characters)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.add_tokens([AddedToken("   ", normalized=False), AddedToken("日本 é", normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))


def sentencepiece_like(folder):
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "▁hello", "日本", "a", "▁▁"]
    tokenizer = Library(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("kind", ["demo", byte_level, sentencepiece_like])
def test_bytes_of_tokens_joined_are_what_the_library_decodes(kind, tmp_path):
    if kind != "demo":
        kind(tmp_path)
    tokenizer = Tokenizer(DEMO_MODEL if kind == "demo" else tmp_path)
    table = tokenizer.bytes_table()
    assert len(table) == len(tokenizer)
    rng = random.Random(1)
    for _ in range(3000):
        ids = [rng.randrange(len(table)) for _ in range(rng.choice([1, 2, 5, 30]))]
        joined = b"".join(table[i] for i in ids)
        if kind is not sentencepiece_like or joined.decode(errors="ignore").encode() == joined:  # it replaces broken bytes one by one
            assert joined.decode(errors="replace") == tokenizer.decode(ids)


def config(folder, **fields):
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))


def test_a_leading_bos_comes_when_the_config_asks_for_it_and_once(tmp_path):
    byte_level(tmp_path)
    plain = Tokenizer(tmp_path).encode("ab")
    bos = Tokenizer(tmp_path).encode("<|endoftext|>")
    config(tmp_path, add_bos_token=False, bos_token="<|endoftext|>")
    assert Tokenizer(tmp_path).encode("ab") == plain
    config(tmp_path, add_bos_token=True, bos_token={"content": "<|endoftext|>"})
    assert Tokenizer(tmp_path).encode("ab") == bos + plain
    config(tmp_path, add_bos_token=True, bos_token="<nowhere>")
    with pytest.raises(ValueError, match="<nowhere>"):
        Tokenizer(tmp_path)
    sentencepiece_like(tmp_path)  # whose template adds it
    config(tmp_path, add_bos_token=True, bos_token="<s>")
    assert Tokenizer(tmp_path).encode("a").count(1) == 1


def test_a_missing_or_broken_tokenizer_is_said_so(tmp_path):
    assert load_tokenizer(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer.json"):
        Tokenizer(tmp_path)

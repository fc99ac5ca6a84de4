"""Text to token ids and back, by the HuggingFace `tokenizers` library, and the bytes that each token stands for."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, TypeAlias

from .spiece import SentencePieceTokenizer

SPIECE = "spiece.model"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """A tokenizer.json, with what the tokenizer_config.json beside it says of a leading BOS token.

    path: the file, or the folder that holds it. FileNotFoundError where it is missing, ValueError where it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import tokenizers  # here, so that an engine on ids starts without it

        file = Path(path)
        if file.is_dir():
            file /= "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(f"{file} is not a file: expected a tokenizer.json or the folder that holds one")
        text = file.read_text(encoding="utf-8")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
            self._description: dict[str, Any] = json.loads(text)
        except Exception as error:  # the library raises a plain Exception
            raise ValueError(f"{file} is not a tokenizer that the tokenizers library reads: {error}") from error
        self._tokenizer.no_truncation()  # a file may carry both; neither has a place here
        self._tokenizer.no_padding()
        self._size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self._prefix = self._read_prefix(file.with_name("tokenizer_config.json"))

    def _read_prefix(self, config_file: Path) -> list[int]:
        if not config_file.is_file():
            return []
        config = json.loads(config_file.read_text(encoding="utf-8"))
        if not config.get("add_bos_token", False):
            return []
        bos = config.get("bos_token")
        content = bos.get("content") if isinstance(bos, dict) else bos
        token_id = self._tokenizer.token_to_id(content) if isinstance(content, str) else None
        if token_id is None:
            raise ValueError(f"{config_file}: add_bos_token is true, but bos_token {content!r} is not in the vocabulary")
        added_by_template = self._tokenizer.encode("").ids[:1] == [token_id]
        return [] if added_by_template else [token_id]

    def __len__(self) -> int:
        """One past the highest id, added tokens counted."""
        return self._size

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` as a prompt: with what the tokenizer's template adds, and BOS in front where its config asks for it."""
        return [*self._prefix, *self._tokenizer.encode(text).ids]

    def decode(self, token_ids: list[int]) -> str:
        """Text of `token_ids`, special tokens left out."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)

    def piece(self, token_id: int) -> str:
        """The text of one token, special ones included; bytes that are no whole character show as U+FFFD."""
        return self._tokenizer.decode([token_id], skip_special_tokens=False)

    def bytes_table(self) -> list[bytes]:
        """The bytes of each token, [len(self)]: empty for special tokens and for ids that no token has."""
        to_bytes = _byte_level if self._is_byte_level() else _plain
        table = [b""] * len(self)
        for token, token_id in self._tokenizer.get_vocab(with_added_tokens=False).items():
            table[token_id] = to_bytes(token)
        for token_id, added in self._tokenizer.get_added_tokens_decoder().items():
            table[token_id] = b"" if added.special else added.content.encode()
        return table

    def _is_byte_level(self) -> bool:
        decoder = self._description.get("decoder") or {}
        return any(part.get("type") == "ByteLevel" for part in [decoder, *decoder.get("decoders", [])])


AnyTokenizer: TypeAlias = Tokenizer | SentencePieceTokenizer


def open_tokenizer(path: str | os.PathLike[str]) -> AnyTokenizer:
    """A tokenizer.json, a SentencePiece model (spiece.model), or the folder that holds one of them; tokenizer.json where it holds both."""
    file = Path(path)
    if file.is_dir() and not (file / "tokenizer.json").is_file() and (file / SPIECE).is_file():
        file /= SPIECE
    return SentencePieceTokenizer(file) if file.suffix == ".model" and file.is_file() else Tokenizer(file)


def load_tokenizer(*folders: Path) -> AnyTokenizer | None:
    """The tokenizer of the first of a model's folders that has one, None where none has."""
    having = (folder for folder in folders for name in ("tokenizer.json", SPIECE) if (folder / name).is_file())
    return next((open_tokenizer(folder) for folder in having), None)


def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 characters stand for their own byte, the other bytes for characters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_of_character()


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTES[character] for character in token)
    except KeyError:  # not written in the table: it stands for itself
        return token.encode()


def _plain(token: str) -> bytes:
    """A token of a SentencePiece-like vocabulary: `▁` is a space, `<0xNN>` one byte."""
    match = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(match[1], 16)]) if match else token.replace("▁", " ").encode()

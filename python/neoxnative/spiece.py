"""Text to token ids and back by a SentencePiece model, such as rinna's `spiece.model`, with the `sentencepiece` package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class SentencePieceTokenizer:
    """A spiece.model, with what the tokenizer_config.json beside it says of lower case and of a leading BOS token.

    file: the model. RuntimeError where the package is missing, ValueError where the file cannot be read.
    """

    def __init__(self, file: Path) -> None:
        try:
            import sentencepiece
        except ImportError:
            raise RuntimeError(f"{file} takes the sentencepiece package: pip install 'neoxnative[sentencepiece]'") from None
        try:
            self._model: Any = sentencepiece.SentencePieceProcessor(model_file=str(file))
        except Exception as error:  # of the library's own
            raise ValueError(f"{file} is not a model that SentencePiece reads: {error}") from error
        config_file = file.with_name("tokenizer_config.json")
        config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
        self._lower = bool(config.get("do_lower_case", False))
        self._prefix = [self._model.bos_id()] if config.get("add_bos_token", False) and self._model.bos_id() >= 0 else []

    def __len__(self) -> int:
        """One past the highest id."""
        return int(self._model.vocab_size())

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text` as a prompt: no EOS behind it, and BOS in front only where the config asks for it."""
        prefix = self._prefix if add_special_tokens else []
        return [*prefix, *self._model.encode(text.lower() if self._lower else text)]

    def special_id(self, text: str) -> int | None:
        """The id of a control token, None where `text` is none."""
        token_id = int(self._model.piece_to_id(text))
        return token_id if self._model.is_control(token_id) else None

    def decode(self, token_ids: list[int]) -> str:
        """Text of `token_ids`, control tokens left out."""
        return str(self._model.decode([token_id for token_id in token_ids if not self._is_special(token_id)]))

    def piece(self, token_id: int) -> str:
        """The text of one token, control tokens included; a byte that is no whole character shows as U+FFFD."""
        if token_id >= len(self):
            return ""
        return self._model.id_to_piece(token_id) if self._is_special(token_id) else self._bytes(token_id).decode(errors="replace")

    def bytes_table(self) -> list[bytes]:
        """The bytes of each token, [len(self)]: empty for control tokens and the unknown one."""
        return [b"" if self._is_special(token_id) else self._bytes(token_id) for token_id in range(len(self))]

    def _is_special(self, token_id: int) -> bool:
        if token_id >= len(self):  # of a vocabulary that the model has padded
            return True
        return bool(self._model.is_control(token_id) or self._model.is_unknown(token_id) or self._model.is_unused(token_id))

    def _bytes(self, token_id: int) -> bytes:
        piece = self._model.id_to_piece(token_id)
        return bytes([int(piece[1:-1], 16)]) if self._model.is_byte(token_id) else piece.replace("▁", " ").encode()

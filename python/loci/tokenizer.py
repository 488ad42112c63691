"""The tokenizer of a language model of the command line (loci/data/text/tokenizer.h): text to tokens and back.

"bytes" has one token a byte and one that ends a text. "bpe" is sentencepiece's byte pair encoding, for which the
package `sentencepiece` must be installed; where and how text is cut before it is encoded is a part of the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

BPE, BYTES = b"loci-tokenizer 1 bpe\n", b"loci-tokenizer 1 bytes\n"
SPACE = "\u2581"  # a space inside sentencepiece
LONGEST_WORD = 4096
# Whole characters of UTF-8 in their shortest form. sentencepiece cannot keep NUL and its own sign for a space.
CHARACTER = (
    rb"(?!\xe2\x96\x81)(?:[\x01-\x7f]|[\xc2-\xdf][\x80-\xbf]"
    rb"|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})"
)
CUTS = re.compile(rb"(?<=[^ ])(?= )|(?<=\n)(?=[^\n])")  # before a run of spaces, behind a run of line ends


class Tokenizer:
    """Tokens of bytes and back, exactly: decode(encode(text)) == text.

        tokenizer = loci.load_run("out/memory/seed-0").tokenizer
        tokens = tokenizer.encode("some text")          # str or bytes -> list of int
        tokenizer.decode(tokens)                        # bytes

    Raises ValueError for a file of another kind, ImportError for a "bpe" tokenizer without `sentencepiece`."""

    def __init__(self, saved: bytes, who: str = "tokenizer"):
        self.saved = saved
        self._model: Any = None
        if saved == BYTES:
            self.kind, self.vocabulary, self.end_of_text = "bytes", 257, 256
            self._pieces = [bytes([byte]) for byte in range(256)] + [b""]
            self._byte_tokens = list(range(256))
            return
        if not saved.startswith(BPE):
            raise ValueError(f"{who}: the saved tokenizer must be one of Loci, got {len(saved)} bytes of another kind")
        self.kind = "bpe"
        self._read_pieces(saved.removeprefix(BPE), who)

    def _read_pieces(self, serialised: bytes, who: str) -> None:
        try:
            import sentencepiece
        except ImportError:
            raise ImportError(
                f"{who}: the package sentencepiece must be installed for a bpe tokenizer, got none"
            ) from None  # fmt: skip
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(serialised)
        except RuntimeError as error:
            raise ValueError(f"{who}: the saved tokenizer must be a model of sentencepiece, got {error}") from None
        model = self._model
        self.vocabulary, self.end_of_text = int(model.vocab_size()), int(model.eos_id())
        self._pieces, self._byte_tokens = [], []
        has_space = False
        for token in range(self.vocabulary):
            piece = model.IdToPiece(token)
            if model.IsByte(token):
                self._pieces.append(bytes([len(self._byte_tokens) & 255]))
                self._byte_tokens.append(token)
            elif model.IsControl(token) or model.IsUnknown(token):
                self._pieces.append(b"")
            else:
                self._pieces.append(piece.replace(SPACE, " ").encode())
                has_space = has_space or piece == SPACE
        if len(self._byte_tokens) != 256 or self.end_of_text < 0:
            raise ValueError(f"{who}: the saved tokenizer must have 256 byte tokens and an end of text, got another")
        # Without a token for the space that one goes byte by byte.
        self._kept = re.compile(b"(?:" + (b"" if has_space else b"(?! )") + CHARACTER + b")+")

    def encode(self, text: str | bytes) -> list[int]:
        """The tokens of a text, without the one that ends it."""
        data = text.encode() if isinstance(text, str) else text
        if self._model is None:
            return list(data)
        tokens: list[int] = []
        end = 0
        for stretch in self._kept.finditer(data):
            tokens += [self._byte_tokens[byte] for byte in data[end : stretch.start()]]
            end = stretch.end()
            words = [word.decode() for part in CUTS.split(stretch[0]) for word in _cut(part)]
            for ids in self._model.encode(words, out_type=int):
                tokens += ids
        return tokens + [self._byte_tokens[byte] for byte in data[end:]]

    def decode(self, tokens: Iterable[int]) -> bytes:
        """The bytes of tokens; the one that ends a text is none. Raises ValueError for one outside the vocabulary."""
        text = b""
        for token in tokens:
            if not 0 <= token < self.vocabulary:
                raise ValueError(f"tokenizer: token must be in 0 .. {self.vocabulary - 1}, got {token}")
            text += self._pieces[token]
        return text


def _cut(word: bytes) -> Iterable[bytes]:
    """Very long words in parts that end with a whole character."""
    while len(word) > LONGEST_WORD:
        end = LONGEST_WORD
        while end < len(word) and word[end] & 0xC0 == 0x80:
            end += 1
        yield word[:end]
        word = word[end:]
    yield word

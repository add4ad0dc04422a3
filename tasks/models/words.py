"""A tokenizer of whole words, for worlds whose captions use a few dozen: its embedding is that small as well."""

from collections.abc import Sequence

import torch
from torch import Tensor

PADDING, START = 0, 1  # words follow; the end of text is the largest token, which is where CLIP's text tower pools


class WordTokenizer:
    """Captions to tokens (captions, context_length): start, words, end, padding."""

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        if not words or len(set(words)) < len(words) or not all(word.split() == [word] for word in words):
            raise ValueError(f"words must be different and without spaces, got {tuple(words)[:10]}")
        self._tokens = {word.lower(): START + 1 + i for i, word in enumerate(words)}
        self._end = START + 1 + len(words)
        self.context_length = context_length

    @property
    def vocab_size(self) -> int:
        return self._end + 1

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Tokens of the captions, (captions, context_length). Raises ValueError for unknown words and long captions."""
        tokens = torch.full((len(captions), self.context_length), PADDING)
        for row, caption in zip(tokens, captions, strict=True):
            ids = [START, *map(self._token, caption.lower().replace(".", " ").replace(",", " ").split()), self._end]
            if len(ids) > self.context_length:
                raise ValueError(f"{caption!r} has {len(ids) - 2} words, {self.context_length - 2} fit: shorten it")
            row[: len(ids)] = torch.tensor(ids)
        return tokens

    def _token(self, word: str) -> int:
        if word not in self._tokens:
            raise ValueError(f"the word {word!r} is not in the vocabulary of {len(self._tokens)} words: add it there")
        return self._tokens[word]

"""A tokenizer of whole words, for captions of a few dozen words, so that its embedding is small as well."""

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
        tokens = [self._padded(caption) for caption in captions]
        return torch.tensor(tokens, dtype=torch.int64).view(len(captions), self.context_length)

    def _padded(self, caption: str) -> list[int]:
        words = caption.lower().replace(".", " ").replace(",", " ").split()
        if len(words) + 2 > self.context_length:
            raise ValueError(f"caption {caption!r} has {len(words)} words, at most {self.context_length - 2} fit")
        ids = [START, *map(self._token, words), self._end]
        return ids + [PADDING] * (self.context_length - len(ids))

    def _token(self, word: str) -> int:
        if word not in self._tokens:
            raise ValueError(f"the word {word!r} is not in the vocabulary of {len(self._tokens)} words: add it there")
        return self._tokens[word]

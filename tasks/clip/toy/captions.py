"""What the pictures of a small world are called: style words, sentences, and the vocabulary they are made of.

Importable without torch.
"""

from collections.abc import Iterable

from amalgam.tasks.clip.class_names import CIFAR10_NAMES, TINY_IMAGENET_NAMES
from amalgam.tasks.clip.prompts import SLOT
from amalgam.tasks.data.sources import PAIR_NAMES, PHOTO_STYLES, SEEN_STYLES, Value
from amalgam.tasks.user_names import unknown_name

STYLE_SLOT = "{style}"


class Captions(Value):
    """Every caption that pictures of a world may have."""

    class_names: tuple[str, ...]
    """What the classes are called."""
    style_words: dict[str, str]
    """What each style is called, in one word."""
    styled: tuple[str, ...]
    """Sentences with a slot for the class and one for the style."""
    neutral: tuple[str, ...]
    """Sentences with a slot for the class that suit every style."""

    def class_templates(self, style: str | None = None) -> tuple[str, ...]:
        """Sentences with a slot {} for the class: those that name the style, or those that name none, which suit all.

        Raises ValueError for a style without a name.
        """
        if style is None:
            return self.neutral
        if style not in self.style_words:
            raise unknown_name("style with a name", style, self.style_words)
        return tuple(sentence.replace(STYLE_SLOT, self.style_words[style]) for sentence in self.styled)

    def style_templates(self, class_names: Iterable[str]) -> tuple[str, ...]:
        """Sentences with a slot {} for the style word, over all of some classes, so that none of them counts."""
        names = tuple(class_names)
        return tuple(
            sentence.replace(SLOT, name).replace(STYLE_SLOT, SLOT) for sentence in self.styled for name in names
        )

    def templates_of_pictures(self, style: str) -> tuple[str, ...]:
        """All sentences that a picture in this style may carry, each as likely as the others."""
        return self.class_templates(style) + self.neutral

    def all(self) -> tuple[str, ...]:
        """Every caption there can be, each once."""
        return tuple(sentence.replace(SLOT, name) for sentence in self._sentences() for name in self.class_names)

    @property
    def words(self) -> tuple[str, ...]:
        """The vocabulary."""
        sentences = {word for sentence in self._sentences() for word in sentence.split()} - {SLOT}
        return tuple(sorted(sentences | set(self.class_words)))

    @property
    def class_words(self) -> tuple[str, ...]:
        """Those of its words that classes are called by; `style_words` has those of styles."""
        return words_of(self.class_names)

    @property
    def longest(self) -> int:
        """Words of the longest caption; the text tower needs room for two more."""
        sentence, name = (max(len(text.split()) for text in texts) for texts in (self._sentences(), self.class_names))
        return sentence - 1 + name

    def _sentences(self) -> tuple[str, ...]:
        """The different sentences, with a slot for the class."""
        return tuple(dict.fromkeys(text for style in self.style_words for text in self.templates_of_pictures(style)))


def words_of(texts: Iterable[str]) -> tuple[str, ...]:
    """The different words of some texts, in the order in which they first come."""
    return tuple(dict.fromkeys(word for text in texts for word in text.split()))


_OF_PAIRS = ("plain", "negative", "colourful", "textured", "outlined", "noisy", "blurry", "pixelated", "bold")
_OF_PHOTOS = ("natural", "grey", "sketched", "negative", "posterised", "pixelated", "noisy", "blurry", "recoloured")
# The class stands at the same place in all of them: a text tower of one block learns its words the sooner.
PAIR_CAPTIONS = Captions(
    class_names=PAIR_NAMES,
    style_words=dict(zip(SEEN_STYLES, _OF_PAIRS, strict=True)),
    styled=("a {style} picture of {}", "a {style} drawing of {}"),
    neutral=("a simple picture of {}", "a simple drawing of {}"),
)
PHOTO_CAPTIONS = Captions(
    class_names=CIFAR10_NAMES + TINY_IMAGENET_NAMES,
    style_words=dict(zip(PHOTO_STYLES, _OF_PHOTOS, strict=True)),
    styled=("a {style} photo of {}", "a {style} picture of {}"),
    neutral=("a small photo of {}", "a small picture of {}"),
)

"""Words that latents may be named by, and which of them images are known to show; importable without torch."""

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, Field, model_validator

from amalgam.tasks.clip.prompts import checked_names, prompt, templates_of


class Concept(BaseModel):
    """A word and the captions that mean it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    word: str
    prompts: tuple[str, ...] = Field(min_length=1)
    """The mean of their text embeddings stands for the word."""


def concepts_of(words: Iterable[str], templates: str | Sequence[str] = ("{}",)) -> tuple[Concept, ...]:
    """A concept for each word, its captions the templates with the word in their slot."""
    sentences = templates_of(templates)
    return tuple(
        Concept(word=word, prompts=tuple(prompt(sentence, word) for sentence in sentences))
        for word in checked_names(tuple(words))
    )


def concepts_in(captions: Sequence[str], words: Iterable[str]) -> tuple[Concept, ...]:
    """A concept for each word, its captions those that contain it.

    For words that never stand alone, such as "four" where captions name two digits. Raises ValueError for a word that
    no caption contains.
    """
    found = {word: tuple(caption for caption in captions if word in caption.split()) for word in words}
    if absent := [word for word, containing in found.items() if not containing]:
        raise ValueError(f"no caption contains the word {absent[0]!r}: leave it out or give captions with it")
    return tuple(Concept(word=word, prompts=containing) for word, containing in found.items())


class Truth(BaseModel):
    """What images are known to show, in words of the vocabulary: from their class, and from their domain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of_class: tuple[tuple[str, ...], ...] = ()
    """Words for each class, such as ("four", "two"); empty where classes say nothing."""
    of_domain: tuple[tuple[str, ...], ...] = ()
    """Words for each domain, such as ("bold",), in the order of the domains; empty where domains say nothing."""

    @model_validator(mode="after")
    def _kinds_differ(self) -> "Truth":
        if both := set(sum(self.of_class, ())) & set(sum(self.of_domain, ())):
            raise ValueError(f"the word {min(both)!r} names both a class and a domain: use different words")
        return self

    @classmethod
    def of_names(cls, class_names: Sequence[str], domains: Sequence[str], words: Sequence[str]) -> "Truth":
        """What classes and domains say that are themselves among the words."""
        of_class = tuple((name,) if name in words else () for name in class_names)
        of_domain = tuple((name,) if name in words and name not in class_names else () for name in domains)
        return cls(of_class=of_class, of_domain=of_domain)

    @property
    def known(self) -> frozenset[str]:
        """The words that images are known to show or not to show."""
        return frozenset(sum((*self.of_class, *self.of_domain), ()))

    def require(self, num_classes: int, num_domains: int) -> None:
        """Raise ValueError unless there are words for every class and domain, or for none."""
        for kind, words, number in (("class", self.of_class, num_classes), ("domain", self.of_domain, num_domains)):
            if words and len(words) != number:
                raise ValueError(f"the truth has words for {len(words)} {kind} values, there are {number}")

"""Small worlds in which pre-training is broader and noisier than fine-tuning, as CLIP's is (method page, section 14).

A world is data: what is shown, what the captions say, which network is trained and how. `named.py` has those that
have a name; nothing here imports torch.
"""

from pathlib import PurePath
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from amalgam.tasks.clip.prompts import checked_names
from amalgam.tasks.clip.testing.test_sets import TestSet
from amalgam.tasks.clip.toy.captions import PAIR_CAPTIONS, PHOTO_CAPTIONS, Captions
from amalgam.tasks.clip.toy.config import PretrainConfig
from amalgam.tasks.clip.toy.networks import of_length, of_width
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.sources import MIN_SIDE, PHOTO_STYLES, Stored, Styled, StyledPairs, StyledPhotos, Value
from amalgam.tasks.models.clip_spec import ClipSpec

Part = Literal["pretraining", "finetuning", "test"]


class BaseWorld(Value):
    """What all worlds have."""

    drawn: ClassVar[type[Styled]]
    """What its pictures are."""

    captions: Captions
    """What may caption a picture."""
    wrong_captions: float = Field(default=0.3, ge=0, lt=1)
    """Share of the pictures whose caption names another class."""
    clip: ClipSpec
    """The network."""
    pretraining: PretrainConfig
    """How it is trained."""

    @property
    def seen_styles(self) -> tuple[str, ...]:
        """Styles of pre-training; the first is the one that is fine-tuned on."""
        return self.drawn.seen_styles

    @property
    def unseen_styles(self) -> tuple[str, ...]:
        """Styles kept for tests."""
        return self.drawn.unseen_styles

    @property
    def shown_styles(self) -> tuple[str, ...]:
        """Those that pre-training draws from, each as often as it stands here."""
        return self.seen_styles

    def sized(self, pretrain_images: int | None, width: int | None) -> Self:
        """The same with other numbers of pictures in pre-training or of channels in the image tower; None keeps them.

        Raises ValueError for a width that is not made of whole heads.
        """
        pretraining = self.pretraining if pretrain_images is None else of_length(self.pretraining, pretrain_images)
        clip = self.clip if width is None else of_width(self.clip, width)
        return self.model_copy(update={"pretraining": pretraining, "clip": clip})


class PairWorld(BaseWorld):
    """Two digits side by side in nine styles."""

    drawn: ClassVar[type[Styled]] = StyledPairs

    kind: Literal["pairs"] = "pairs"
    glyphs: DataSpec
    """The single digits."""
    size: int = Field(ge=MIN_SIDE, multiple_of=2)
    """Side of a picture in pixels."""
    margin: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the side of a single digit that is cut off on every border."""
    captions: Captions = PAIR_CAPTIONS

    @property
    def class_names(self) -> tuple[str, ...]:
        """What captions call the classes that are fine-tuned on, in the order of the labels."""
        return self.captions.class_names

    @property
    def explained_styles(self) -> tuple[str, ...]:
        """A few that explanations look at."""
        return ("plain", "negative", "outline", "bold")

    def pretraining_sources(self, seed: int) -> tuple[StyledPairs, ...]:
        """What pre-training shows, in random turns; its classes, put together, are those of the captions."""
        return (self.source("pretraining", 1, seed=seed),)

    def source(self, part: Part, num_images: int, style: str = "plain", seed: int = 0) -> StyledPairs:
        """Pictures of one style, made of digits that only this part of the experiment sees."""
        return StyledPairs(
            glyphs=self.glyphs,
            split="test" if part == "test" else "train",
            half=_half(part),
            style=style,
            num_images=num_images,
            size=self.size,
            margin=self.margin,
            seed=seed,
        )

    def natural(self, data: DataSpec, cut: float, num_images: int, seed: int) -> StyledPairs:
        """Digits of other origin with a share `cut` off every border, paired as the world's own."""
        return StyledPairs(**dict(self.source("test", num_images, seed=seed)) | {"glyphs": data, "margin": cut})

    def other_classes(self, num_images: int, seed: int) -> tuple[TestSet, ...]:
        """Tests of classes that are not fine-tuned on: there are none."""
        return ()


class PhotoSet(Value):
    """Photos and what their classes are called."""

    data: DataSpec
    class_names: tuple[str, ...]
    most_tests: int | None = Field(default=None, ge=1)
    """Photos that a test may take of its test split; None where there are as many as any test wants."""

    @property
    def name(self) -> str:
        """Its own, without the place of its files."""
        return PurePath(self.data.name.rpartition(":")[2]).stem

    @model_validator(mode="after")
    def _classes_have_names(self) -> Self:
        checked_names(self.class_names)
        return self


class PhotoWorld(BaseWorld):
    """Photos of one set that is fine-tuned on and of others that are not, half as they are, half in eight styles."""

    drawn: ClassVar[type[Styled]] = StyledPhotos

    kind: Literal["photos"] = "photos"
    sets: tuple[PhotoSet, ...] = Field(min_length=1)
    """The set that is fine-tuned on, half of which is kept for that, and those that pre-training alone sees whole."""
    captions: Captions = PHOTO_CAPTIONS

    @model_validator(mode="after")
    def _captions_name_the_classes(self) -> Self:
        if sum((photos.class_names for photos in self.sets), ()) != self.captions.class_names:
            raise ValueError("the class names of captions must be those of all sets, in their order")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """See `PairWorld`, as for all that follow."""
        return self.sets[0].class_names

    @property
    def shown_styles(self) -> tuple[str, ...]:
        photo, *others = self.seen_styles
        return (photo,) * len(others) + tuple(others)

    @property
    def explained_styles(self) -> tuple[str, ...]:
        return ("photo", "sketch", "negative", "blurry")

    def pretraining_sources(self, seed: int) -> tuple[StyledPhotos, ...]:
        return tuple(
            StyledPhotos(
                data=photos.data,
                class_names=photos.class_names,
                split="train",
                num_images=1,
                varied=True,
                seed=seed,
                half=_half("pretraining") if photos is self.sets[0] else "all",
            )
            for photos in self.sets
        )

    def source(self, part: Part, num_images: int, style: str = PHOTO_STYLES[0], seed: int = 0) -> StyledPhotos:
        """Photos of one style that only this part of the experiment sees."""
        return StyledPhotos(
            data=self.sets[0].data,
            class_names=self.class_names,
            split="test" if part == "test" else "train",
            half=_half(part),
            style=style,
            num_images=num_images,
            seed=seed,
        )

    def natural(self, data: DataSpec, cut: float, num_images: int, seed: int) -> Stored:
        """Photos of other origin and the same classes, whole."""
        if cut:
            raise ValueError("photos are not cropped: leave @MARGIN out")
        assert self.clip.preprocessing is not None
        size = self.clip.preprocessing.size[0]
        return Stored(data=data.model_copy(update={"image_size": size}))

    def other_classes(self, num_images: int, seed: int) -> tuple[TestSet, ...]:
        """The sets that pre-training alone saw, distinguished by their names."""
        return tuple(
            TestSet(
                name=photos.name,
                role="forgetting",
                source=StyledPhotos(
                    data=photos.data,
                    class_names=photos.class_names,
                    num_images=min(num_images, photos.most_tests or num_images),
                    seed=seed,
                ),
                class_names=photos.class_names,
                templates=self.captions.class_templates(),
            )
            for photos in self.sets[1:]
        )


World = PairWorld | PhotoWorld
AnyWorld = Annotated[World, Field(discriminator="kind")]


def _half(part: Part) -> Literal["all", "first", "second"]:
    halves: dict[Part, Literal["all", "first", "second"]] = {
        "pretraining": "first",
        "finetuning": "second",
        "test": "all",
    }
    return halves[part]

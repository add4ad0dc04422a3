"""Which labelled images, as data: a set as it is stored, digits or photos in a style, or any of these corrupted.

`tasks.data.opening` opens them; nothing here imports torch.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.user_names import unknown_name

SEEN_STYLES = ("plain", "negative", "colour", "texture", "outline", "noisy", "blurry", "pixelated", "bold")
"""Styles that the pre-training of a small world shows."""
UNSEEN_STYLES = ("occluded", "rotated", "low_contrast", "negative_noisy")
"""Styles kept for tests, of drawings and of photos."""
PHOTO_STYLES = ("photo", "grey", "sketch", "negative", "posterised", "pixelated", "noisy", "blurry", "recoloured")
"""Styles that the pre-training on photos shows."""
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PAIR_NAMES = tuple(f"{left} {right}" for left in DIGIT_NAMES for right in DIGIT_NAMES)
"""The classes of pairs of digits, in the order of their labels."""
NOISES = ("gaussian_noise", "shot_noise", "impulse_noise")
BLURS = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur")
WEATHERS = ("snow", "frost", "fog", "brightness")
DIGITAL = ("contrast", "elastic_transform", "pixelate", "jpeg_compression")
CORRUPTIONS = (*NOISES, *BLURS, *WEATHERS, *DIGITAL)
"""The fifteen kinds of Hendrycks and Dietterich (2019)."""
SEVERITIES = (1, 2, 3, 4, 5)
MIN_SIDE = 8  # pixels; below it neither two digits nor a corruption can be recognised


class Value(BaseModel):
    """Plain data that does not change and has no field but those it names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stored(Value):
    """A split of a data set as it lies on disk."""

    kind: Literal["stored"] = "stored"
    data: DataSpec
    """Which set."""
    split: Literal["train", "test"] = "test"
    """Which part of it."""
    test_share: float = Field(default=0, ge=0, lt=1)
    """Share that is the test split, of a set whose splits are the same; of all seeds the same images, in whole sources.
    0 leaves the splits as they are."""
    validation_part: str | None = None
    """Part of the set that follows the others and is held out whole, as its authors have it; None holds out a share."""


class Coloured(Value):
    """The same in three channels, grey pictures as they look, for networks that read colours."""

    kind: Literal["coloured"] = "coloured"
    data: DataSpec
    """Which set; its mean and deviation are those of the three channels."""
    split: Literal["train", "test"] = "test"
    """Which part of it."""


class Styled(Value):
    """Pictures in a style, drawn when read: what they show follows from (seed, number of the image) alone."""

    seen_styles: ClassVar[tuple[str, ...]]
    """Styles that pre-training shows; the first leaves pictures as they are."""
    unseen_styles: ClassVar[tuple[str, ...]] = UNSEEN_STYLES
    """Styles kept for tests."""

    split: Literal["train", "test"] = "test"
    """Which part of the stored set they are made of."""
    half: Literal["all", "first", "second"] = "all"
    """Which half of that part: pre-training and fine-tuning share nothing if each keeps to its own."""
    style: str
    """A name in `seen_styles` or `unseen_styles`."""
    num_images: int = Field(ge=1)
    """How many are drawn."""
    seed: int = Field(default=0, ge=0)
    """Draws everything that is random."""

    @field_validator("style")
    @classmethod
    def _style_is_known(cls, style: str) -> str:
        if style not in cls.seen_styles + cls.unseen_styles:
            raise unknown_name("style", style, cls.seen_styles + cls.unseen_styles)
        return style


class SetApart(Value):
    """Digits that only held-out pictures are made of."""

    share: float = Field(gt=0, lt=1)
    """Share of the digits, class by class, and of the pictures: the last ones."""
    seed: int = 0
    """Draws which digits."""
    shown: bool = True
    """Whether those last pictures show them; otherwise they show the other digits too."""


class StyledPairs(Styled):
    """Two digits side by side on a square canvas: 100 classes, "zero zero" to "nine nine".

    Digits in colour are shown as they are, in style "plain" only.
    """

    seen_styles: ClassVar[tuple[str, ...]] = SEEN_STYLES

    kind: Literal["styled_pairs"] = "styled_pairs"
    glyphs: DataSpec
    """The single digits; ten classes in the order of their values."""
    style: str = "plain"
    size: int = Field(default=28, ge=MIN_SIDE, multiple_of=2)
    """Side of the canvas in pixels."""
    margin: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the side of a digit's picture that is cut off on every border: MNIST's is 1/7, nothing but black."""
    set_apart: SetApart | None = None
    """Digits kept for the pictures that are held out; None mixes all, and no split can separate pictures by digit."""

    @property
    def data(self) -> DataSpec:
        """The stored set."""
        return self.glyphs


class StyledPhotos(Styled):
    """Photos of a set in an order drawn from the seed, none twice."""

    seen_styles: ClassVar[tuple[str, ...]] = PHOTO_STYLES

    kind: Literal["styled_photos"] = "styled_photos"
    data: DataSpec
    """The photos; halves are every other one, since many sets lie sorted by class."""
    class_names: tuple[str, ...] = ()
    """What their classes are called; empty takes the names that come with them."""
    style: str = "photo"
    varied: bool = False
    """Whether photos are mirrored and moved at random, anew each time that all of them have been shown."""


Pictures = Annotated[StyledPairs | StyledPhotos, Field(discriminator="kind")]


class MixedStyles(Value):
    """Pictures of which every one has one style of several, in turn."""

    kind: Literal["mixed_styles"] = "mixed_styles"
    pictures: Pictures
    """The pictures; their own style plays no part."""
    styles: tuple[str, ...]
    """Which styles."""
    label: Literal["class", "style"] = "class"
    """What images are labelled with: their class, or the style that they are shown in."""
    bound: float | None = Field(default=None, ge=0, le=1)
    """Share of the images in the style that belongs to their class, others by chance; None takes styles in turn.

    Of S styles the first belongs to the first S-th of the classes, and so on; groups are pairs of the two styles."""

    @model_validator(mode="after")
    def _styles_are_known(self) -> Self:
        known = self.pictures.seen_styles + self.pictures.unseen_styles
        for style in self.styles:
            if style not in known:
                raise unknown_name("style", style, known)
        if len(set(self.styles)) < max(2, len(self.styles)):
            raise ValueError(f"styles must be two or more different ones, got {self.styles}")
        return self


class Corrupted(Value):
    """The images of another source, corrupted whenever they are read."""

    kind: Literal["corrupted"] = "corrupted"
    source: Annotated[Stored | StyledPairs | StyledPhotos | MixedStyles, Field(discriminator="kind")]
    """What is corrupted."""
    corruption: str
    """A name in `CORRUPTIONS`."""
    severity: int = Field(ge=SEVERITIES[0], le=SEVERITIES[-1])
    """How much, from 1 to 5."""
    seed: int = Field(default=0, ge=0)
    """Draws everything that is random, together with the number of the image."""

    @field_validator("corruption")
    @classmethod
    def _corruption_is_known(cls, corruption: str) -> str:
        if corruption not in CORRUPTIONS:
            raise unknown_name("corruption", corruption, CORRUPTIONS)
        return corruption


AnySource = Stored | Coloured | StyledPairs | StyledPhotos | MixedStyles | Corrupted
Source = Annotated[AnySource, Field(discriminator="kind")]


class LabelledConfig(Value):
    """Images with labels to fine-tune on, some of them held out."""

    source: Source
    validation_share: float = Field(default=0.2, gt=0, lt=1)
    """Share held out to choose epochs, strengths and alphas by, in whole sources; stratified by class."""
    seed: int = 0
    """Draws which."""

    @classmethod
    def separable(cls, source: AnySource, validation_share: float, seed: int) -> Self:
        """The same, pairs drawn so that those held out share no digit with those that are trained on."""
        apart = SetApart(share=validation_share, seed=seed)
        if isinstance(source, StyledPairs):
            source = source.model_copy(update={"set_apart": apart})
        elif isinstance(source, MixedStyles) and isinstance(source.pictures, StyledPairs):
            pictures = source.pictures.model_copy(update={"set_apart": apart})
            source = source.model_copy(update={"pictures": pictures})
        return cls(source=source, validation_share=validation_share, seed=seed)


def without_held_out(pictures: StyledPairs | StyledPhotos, labelled: LabelledConfig) -> StyledPairs | StyledPhotos:
    """The same pictures without the digits that are set apart for held-out ones."""
    of_labelled = labelled.source.pictures if isinstance(labelled.source, MixedStyles) else labelled.source
    if not isinstance(pictures, StyledPairs) or not isinstance(of_labelled, StyledPairs) or not of_labelled.set_apart:
        return pictures
    return pictures.model_copy(update={"set_apart": of_labelled.set_apart.model_copy(update={"shown": False})})


def data_of(source: AnySource) -> DataSpec:
    """The stored set that a source is made of."""
    if isinstance(source, Corrupted):
        return data_of(source.source)
    return source.pictures.data if isinstance(source, MixedStyles) else source.data

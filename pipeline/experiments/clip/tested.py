"""What `clip_finetune` trains on and tests: a suite of the literature or folders of pictures, some of them held out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from amalgam.pipeline.experiments.clip.backbone import Backbone, Wording
from amalgam.pipeline.experiments.clip.recipe import Seeded
from amalgam.pipeline.experiments.flags import Corruptions, GroupColumn, Optimisation, Texts
from amalgam.pipeline.steps.clip.backbones import OPENED, OpenedConfig
from amalgam.tasks.clip.testing.suite import PictureSettings, Suite
from amalgam.tasks.clip.testing.suites import SUITES, domain_folders, image_folder, num_labelled
from amalgam.tasks.clip.testing.test_sets import corrupted_sets
from amalgam.tasks.data.sources import LabelledConfig, Source
from amalgam.tasks.user_names import unknown_name

IMAGES = {"imagenet": 1_281_167, "iwildcam": 129_809, "fmow": 76_863}  # that are trained on
HELD_OUT = 500  # images that choices need: one of them is then 0.2 points
WARMUP_STEPS, MANY_IMAGES = 500, 100_000  # of the reference; where images are not counted
EPOCHS, LEARNING_RATE = 10, 1e-5  # of the reference, for a million images
FEW_STEPS = 2000  # fewer hardly move a network at that learning rate
MOST_EPOCHS, MOST_TIMES = 100, 5  # the literature's most for sets of a few thousand; of the learning rate
TUNABLE = tuple(name for name in SUITES if name != "others")
KINDS = (*TUNABLE, "imagefolder:PATH", "domains:PATH@DOMAIN")


@dataclass(frozen=True)
class FittedOptimisation:
    """How a CLIP is trained; what is not given follows from the number of images."""

    epochs: Annotated[int | None, "Passes over the training images; default: 10, or up to 100 for 2,000 steps."] = None
    batch_size: Annotated[int, "Images per step, over all processes."] = 32
    learning_rate: Annotated[
        float | None, "Peak learning rate; default: 1e-5, or up to 5 times that where steps are fewer than 2,000."
    ] = None
    weight_decay: Annotated[float, "Weight decay, as in torch.optim."] = 0.1

    def fitted(self, num_images: float) -> Optimisation:
        """The same with nothing left open, for so many images that are trained on.

        AdamW moves a weight by at most about the learning rate in a step, so fewer steps get a larger one.
        """
        per_epoch = max(1, num_images // self.batch_size)
        epochs = self.epochs or int(min(MOST_EPOCHS, max(EPOCHS, -(-FEW_STEPS // per_epoch))))
        times = min(MOST_TIMES, max(1.0, FEW_STEPS / (epochs * per_epoch)))
        rate = self.learning_rate or float(f"{LEARNING_RATE * times:.2g}")
        return Optimisation(epochs, self.batch_size, rate, self.weight_decay)


@dataclass(frozen=True)
class Tested:
    """What is fine-tuned on, and what is tested."""

    suite: Annotated[str, f"What to fine-tune and test on: {', '.join(KINDS)}."]
    tests: Annotated[Texts, "Which of the suite's test sets; default: all."] = ()
    forgetting: Annotated[Texts, "Test sets with other classes, such as cifar100,dtd."] = ()
    skip_damaged: Annotated[bool, "Skip images that cannot be decoded, and count them."] = False
    validation_share: Annotated[
        float | None, "Fraction of the training images held out for model selection; default: by their number."
    ] = None
    group_column: GroupColumn = None
    anchor_data: Annotated[str | None, "Unlabelled images for the methods that use them: imagefolder:PATH."] = None

    def opened(self, backbone: Backbone, wording: Wording, corrupted: Corruptions, root: Path | None) -> "Opened":
        """The suite as the backbone reads its pictures and in its words, corrupted test sets added."""
        pictures = PictureSettings.of(backbone.preprocessing, skip_damaged=self.skip_damaged)
        chosen = wording.applied(_suite(self.suite, self.tests, self.forgetting, root, pictures))
        shifted = corrupted_sets(chosen.test_sets, corrupted.corruptions, corrupted.severities)
        chosen = chosen.model_copy(update={"test_sets": (*chosen.test_sets, *shifted)})
        unlabelled = pictures.stored(self.anchor_data, "train") if self.anchor_data else None
        if self.group_column and chosen.labelled:
            chosen = chosen.grouped_by(self.group_column)
        labelled = chosen.labelled
        assert labelled is not None
        if self.validation_share:
            labelled = labelled.model_copy(update={"validation_part": None})
            chosen = chosen.model_copy(update={"labelled": labelled})
        count = num_labelled(labelled, root) or IMAGES.get(self.suite)
        share = self.validation_share or _fitting_share(count)
        return Opened(backbone.opened, chosen, share, unlabelled, count)


@dataclass(frozen=True)
class Opened:
    """What a seed changes: which pictures are held out. The backbone is the same."""

    backbone: OpenedConfig
    suite: Suite
    validation_share: float
    unlabelled: Source | None
    num_images: int | None
    """Labelled ones, where they can be counted beforehand."""

    @property
    def num_trained(self) -> float:
        """Images that are trained on, as far as they are known."""
        return (self.num_images or MANY_IMAGES) * (1 if self._official else 1 - self.validation_share)

    @property
    def _official(self) -> str | None:
        """The part that the set's authors hold out."""
        return self.suite.labelled.validation_part if self.suite.labelled else None

    def warmup_steps(self, training: Optimisation, given: int | None = None) -> int:
        """Those given, or a tenth of all steps, but no more than the reference's.

        Raises ValueError for more than training has, which would never reach its learning rate.
        """
        steps = max(1, int(self.num_trained / training.batch_size * training.epochs))
        if given is not None and given > steps and self.num_images is not None:
            raise ValueError(
                f"a warm-up of {given} steps is longer than the training, {steps} steps on {self.num_trained:.0f} "
                "images: lower --warmup-steps, or leave it out"
            )
        return min(WARMUP_STEPS, max(1, steps // 10)) if given is None else given

    @property
    def derived(self) -> dict[str, str]:
        """What was derived from the pictures, in words."""
        count = "" if self.num_images is None else f" of {self.num_images} images"
        return {
            "classes": ", ".join(self.suite.class_names[:20]),
            "templates": str(self.suite.templates),
            "held out": f"official part {self._official}, by {self.suite.choose_by}"
            if self._official
            else f"{100 * self.validation_share:g} %{count}",
            **self._tested_part,
        }

    @property
    def _tested_part(self) -> dict[str, str]:
        labelled = self.suite.labelled
        if labelled is None or not labelled.test_share:
            return {}
        return {"tested in distribution": f"{100 * labelled.test_share:g} % of {labelled.data.part}, not trained on"}

    def __call__(self, seed: int) -> Seeded:
        assert self.suite.labelled is not None
        labelled = LabelledConfig(source=self.suite.labelled, validation_share=self.validation_share, seed=seed)
        return Seeded(OPENED(self.backbone), labelled, self.suite.test_sets, self.unlabelled)


def _fitting_share(num_images: int | None) -> float:
    """The share that holds `HELD_OUT` images out, between 2 and 25 %: fewer would choose by chance."""
    return min(0.25, max(0.02, round(HELD_OUT / (num_images or MANY_IMAGES), 3)))


def _suite(name: str, tests: Texts, forgetting: Texts, root: Path | None, pictures: PictureSettings) -> Suite:
    """The suite of that name, with some sets of other classes."""
    kind, colon, path = name.partition(":")
    if kind == "imagefolder" and path:
        suite = image_folder(path, root, pictures)
    elif kind == "domains" and "@" in path:
        folder, _, trained = path.rpartition("@")
        suite = domain_folders(folder, trained, root, pictures)
    elif name in TUNABLE:
        suite = SUITES[name](root, pictures, tests)
    else:
        raise unknown_name("suite", name, KINDS)
    if tests and colon:
        raise ValueError(
            f"--tests selects test sets of {', '.join(TUNABLE)}; {name!r} has none to select: leave it out"
        )
    if not forgetting:
        return suite
    others = SUITES["others"](root, pictures, forgetting)
    return suite.model_copy(update={"test_sets": (*suite.test_sets, *others.test_sets)})

"""Test the networks between a frozen classifier and a fine-tuned one, or a soup of several, on many test sets."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from amalgam.tasks.clip.finetuning.interpolate import greedy_soup, soup
from amalgam.tasks.clip.prompts import spoken
from amalgam.tasks.clip.testing.evaluate import Examination, Networks, examine, interpolated_networks, kept
from amalgam.tasks.clip.testing.similarity import DriftMeter
from amalgam.tasks.clip.testing.test_sets import VALIDATION, TestSet
from amalgam.tasks.clip.zero_shot import Classifier, Head, Projection, zero_shot_head
from amalgam.tasks.data.images import Images
from amalgam.tasks.models.clip import Clip
from amalgam.tasks.scoring.metrics import METRICS, Predictions, value
from amalgam.tasks.training.averaging import State

BEFORE = "alpha=0"
"""What the network before fine-tuning is called."""


@dataclass(frozen=True)
class Session:
    """A classifier before fine-tuning, the images that networks like it are tested on, and how."""

    before: Classifier
    class_names: tuple[str, ...]
    """Classes of its head."""
    validation: Examination
    """Held-out images: the only ones by which anything is chosen."""
    images: Callable[[TestSet], Images]
    """Opens a test set."""
    clip: Callable[[], Clip] | None
    """Opens the backbone; None where no test set may have a head of its own."""
    batch_size: int
    precision: Literal["float32", "bfloat16"]
    drift_images: int
    """Images of every test set on which drift is measured, the first ones."""
    device: str

    def networks(
        self, tuned: Sequence[State], alphas: tuple[float, ...], mixed: Literal["uniform", "greedy"], num_bytes: int
    ) -> Networks:
        """The path to `tuned`, or to their soup, kept from batch to batch if it takes no more than `num_bytes`."""
        before = self.before.state_dict()
        return kept(interpolated_networks(before, self._after(before, tuned, mixed), alphas), num_bytes)

    def _after(self, before: State, tuned: Sequence[State], mixed: str) -> State:
        if len(tuned) < 2:
            return tuned[0] if tuned else before
        return soup(tuned) if mixed == "uniform" else greedy_soup(tuned, self._on_validation)

    def _on_validation(self, state: State) -> float:
        return value(METRICS["accuracy"], self._examine({"it": lambda: state}, self.validation)["it"])

    def examinations(self, test_sets: Sequence[TestSet]) -> Iterator[tuple[str, str, Examination]]:
        """Names, roles and images: the held-out ones, then one test set after another, opened when it is its turn."""
        yield VALIDATION, VALIDATION, self.validation
        for one in test_sets:
            images = self.images(one)
            projection = Projection(one.columns, len(self.class_names)) if one.columns else None
            yield one.name, one.role, Examination(images, head=self._own_head(one, images), projection=projection)

    def answers(self, networks: Networks, examination: Examination, drift: DriftMeter) -> dict[str, Predictions]:
        """What each network answers; `drift` is fed the features of the last one beside those before fine-tuning."""
        frozen = None if BEFORE in networks else self.before.state_dict
        return self._examine(
            networks,
            replace(examination, before=frozen, drift={list(networks)[-1]: drift}, drift_images=self.drift_images),
        )

    def _examine(self, networks: Networks, examination: Examination) -> dict[str, Predictions]:
        return examine(
            self.before,
            networks,
            examination,
            batch_size=self.batch_size,
            precision=getattr(torch, self.precision),
            device=self.device,
        )

    def _own_head(self, test_set: TestSet, images: Images) -> Head | None:
        if not test_set.templates:
            return None
        if self.clip is None:
            raise ValueError(f"test set {test_set.name!r} needs a zero-shot head: give the step a backbone")
        clip = self.clip()
        clip.model.to(self.device)
        names = test_set.class_names or tuple(map(spoken, images.class_names))
        return zero_shot_head(clip, names, test_set.templates)

"""What a fine-tuned network, its way from the frozen one and its soups are tested on.

Importable without torch: experiments build steps from these to be planned.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from amalgam.pipeline.steps.clip_configs import ChosenSAE, LabelledConfig
from amalgam.pipeline.steps.configs import Config
from amalgam.tasks.clip.testing.test_sets import TestSet, check_test_sets
from amalgam.tasks.data.sources import check_source

VALIDATION = "validation"
"""What the held-out images of the labelled ones are called among test sets."""
ALPHAS = tuple(step / 10 for step in range(11))  # the sweep of WiSE-FT (Wortsman et al. 2022)


class PathConfig(Config):
    """Networks between a frozen classifier and a fine-tuned one, or a soup of several, tested on everything."""

    labelled: LabelledConfig
    """What was fine-tuned on; its held-out images are the only ones by which anything is chosen."""
    test_sets: tuple[TestSet, ...]
    alphas: tuple[float, ...] = ALPHAS
    """Shares of the fine-tuned weights: 0 is the network before, 1 the one after; rising."""
    soup: Literal["uniform", "greedy"] = "greedy"
    """How several fine-tuned networks become one: all, or best first while held-out accuracy does not fall."""
    sae: ChosenSAE | None = None
    """Which of the autoencoders measures drift; None measures it without."""
    drift_images: int = Field(default=1000, ge=0)
    """Images of every test set on which drift is measured, the first ones: paths without alpha 0 encode them anew."""
    batch_size: int = Field(default=512, ge=1)
    """Images per forward pass; it decides how sums are rounded."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the encoder under autocast."""

    @model_validator(mode="after")
    def _can_be_walked(self) -> "PathConfig":
        check_test_sets(self.test_sets)
        if not self.alphas or list(self.alphas) != sorted(set(self.alphas)):
            raise ValueError(f"alphas must rise, and there must be one, got {self.alphas}")
        if not (self.alphas[0] >= 0 and self.alphas[-1] <= 1):
            raise ValueError(f"alphas must be in [0, 1], got {self.alphas}")
        if any(test_set.name == VALIDATION for test_set in self.test_sets):
            raise ValueError(f"no test set can be called {VALIDATION!r}: the held-out images are")
        return self


def check_path(config: PathConfig, data_root: Path | None) -> None:
    """Raise ValueError unless all images are there."""
    for source in (config.labelled.source, *(test_set.source for test_set in config.test_sets)):
        check_source(source, data_root)

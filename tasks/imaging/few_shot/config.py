"""How a classifier is trained on a few labelled images, as data."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

FewShotMethod = Literal["supervised", "self-training", "fixmatch", "sparse"]
METHODS: tuple[FewShotMethod, ...] = ("supervised", "self-training", "fixmatch", "sparse")


class FewShotConfig(BaseModel):
    """Settings shared by all methods, so that they see the same images equally often; defaults follow SPARSE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: FewShotMethod = "sparse"
    """supervised: labelled images alone. self-training: pseudo-labels of the combined networks. fixmatch: confident
    predictions taught to strongly augmented images. sparse: pseudo-labels, and images translated to other classes."""
    epochs: PositiveInt = 20
    """Passes of `steps` steps; the learning rate falls to 0 over them as a cosine."""
    steps: PositiveInt = 20
    """Steps in an epoch."""
    batch_size: PositiveInt = 32
    """Labelled images in a step, and as many unlabelled ones."""
    learning_rate: PositiveFloat = 1e-3
    """Of AdamW, for the classifier and the networks beside it."""
    width: int = Field(default=16, ge=4, le=1024, multiple_of=4)
    """Channels of the first convolution of each network."""
    warm_up: float = Field(default=0.2, ge=0, lt=1)
    """Share of the epochs that see labelled images alone."""
    translate_every: PositiveInt = 2
    """Steps between two updates of generator and critic (mu)."""
    temperature: PositiveFloat = 2.0
    """What logits are divided by where confidence is measured (T)."""
    quantile: float = Field(default=0.75, ge=0, le=1)
    """Share of a batch's pseudo-labels that is not learned from, the least certain ones (rho)."""
    mutual: NonNegativeFloat = 0.05
    """Weight of the divergence between the two networks' predictions (alpha times lambda_kl)."""
    entropy: NonNegativeFloat = 0.01
    """Weight of the entropy of predictions (beta)."""
    mixup: NonNegativeFloat = 0.5
    """Weight of the cross-entropy of mixed images (gamma)."""
    reconstruction: NonNegativeFloat = 10.0
    """Weight of the way back to the image's own class (lambda_rec)."""
    penalty: NonNegativeFloat = 10.0
    """Weight of the critic's gradient penalty (lambda_gp)."""
    threshold: float = Field(default=0.95, ge=0, le=1)
    """Least probability of a label that fixmatch teaches."""

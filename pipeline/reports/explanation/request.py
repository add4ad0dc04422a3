"""What is to be explained: two classifiers, an autoencoder, and how. Importable without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FEW = 4096  # latents of an autoencoder that is trained again in minutes on a CPU


@dataclass(frozen=True, kw_only=True)
class ExplainRequest:
    """What to explain, and how the page is made."""

    before: Path
    """Folder of a classifier."""
    after: Path
    """Folder of the one that it was fine-tuned to."""
    sae: Path
    """Folder of an autoencoder, or of several."""
    sae_name: str | None = None
    """Which of several."""
    top_n: int = 16
    """Strongest images kept of every latent."""
    batch_size: int = 256
    """Images per forward pass."""
    labels: Path | None = None
    """Table of what people call latents, with the columns latent and label."""
    new_latents: bool | None = None
    """Whether a second autoencoder is trained to find latents that are new; None does up to FEW latents."""
    name_error: float = 0.1
    """Largest share of the names of latents that may be wrong."""
    title: str = "What fine-tuning changed"
    """Headline of the page."""
    about: Mapping[str, str] = field(default_factory=dict)
    """What the head of the page says of the network besides what the record of its step says."""
    device: str = "cpu"
    """`cpu` or `cuda`."""

    def wants_new_latents(self, num_latents: int) -> bool:
        """Whether new latents are looked for with an autoencoder of this size."""
        return num_latents <= FEW if self.new_latents is None else self.new_latents

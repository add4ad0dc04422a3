"""SAELens training the same autoencoder, for `benchmarks.methods.sae`; only where it is installed (found with 6.54.12).

Its own trainer with its own TopK and Adam, without its logging and its revival of dead latents, gets ready batches.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor

from amalgam.tasks.sae.config import SAESpec, SAETrainConfig
from amalgam.tasks.sae.rules import num_active

IS_INSTALLED = find_spec("sae_lens") is not None


def peer_training(
    features: Tensor, spec: SAESpec, num_latents: int, config: SAETrainConfig, learning_rate: float = 3e-4
) -> Callable[[Tensor], Tensor]:
    """Train as long as `tasks.sae.training.train` would, at its own learning rate or another; gives reconstructions."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=features.shape[1], d_sae=num_latents, k=int(num_active(spec.sparsity) or 0), aux_loss_coefficient=0.0
        )
    )
    size = config.batch_size
    samples = (config.epochs or 0) * len(features)
    trained = SAETrainerConfig(
        total_training_samples=samples, train_batch_size_samples=size, lr=learning_rate, lr_end=learning_rate / 10
    )
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        SAETrainer(trained, sae, _batches(features, size)).fit()
    return lambda x: sae(x).detach()


def _batches(features: Tensor, size: int) -> Iterator[Tensor]:
    while True:
        yield from features[torch.randperm(len(features))].split(size)

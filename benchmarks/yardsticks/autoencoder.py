"""A sparse autoencoder as one would first write it, the yardstick of `benchmarks.methods.sae`.

A DataLoader over a TensorDataset, dense codes with a mask of the k largest, one optimiser, autograd for everything. It
is the model of `tasks.sae.training.train` with TopK: tied unit atoms that start where ours do, a bias that starts at
the mean, the loss as a share of the variance, atoms' gradients made orthogonal, clipping, warm-up and decay. Batches
come in the order of ours, so that both loss curves can be compared. Revival of dead latents is left out: in as few
passes as are timed no latent counts as dead.
"""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from amalgam.tasks.sae.autoencoder import initial
from amalgam.tasks.sae.config import FeatureInfo, SAESpec, SAETrainConfig
from amalgam.tasks.sae.rules import num_active
from amalgam.tasks.training.seeding import seeded


class NaiveSAE(nn.Module):
    """Features to reconstructions through dense codes."""

    def __init__(self, encoder: Tensor, decoder: Tensor, bias: Tensor, k: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.bias = (nn.Parameter(tensor.clone()) for tensor in (encoder, decoder, bias))
        self.k = k

    def forward(self, features: Tensor) -> Tensor:
        """The reconstruction of features (batch, width)."""
        pre_activations = (features - self.bias) @ self.encoder.T
        kept = pre_activations.topk(self.k, dim=1).indices
        mask = torch.zeros_like(pre_activations).scatter(1, kept, 1.0)
        return (pre_activations.relu() * mask) @ self.decoder + self.bias


def naive_training(features: Tensor, about: FeatureInfo, spec: SAESpec, config: SAETrainConfig) -> list[float]:
    """Train and give the mean share of unexplained variance of every epoch."""
    mean = features.mean(0)
    variance = (features - mean).square().sum(1).mean().item()
    start = initial(spec.info(about), config, mean.cpu(), spec.seed).to(features.device)
    model = NaiveSAE(start.encoder.data, start.decoder.data, start.bias.data, int(num_active(spec.sparsity) or 0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=config.weight_decay)
    dataset, curve, step = TensorDataset(features), list[float](), 0
    steps = config.num_steps(-(-len(features) // config.batch_size))
    for epoch in range(1, (config.epochs or 0) + 1):
        with seeded(config.seed, epoch, torch.device("cpu")) as generator:
            order = torch.randperm(len(features), generator=generator).tolist()
        total = 0.0
        for (batch,) in DataLoader(dataset, config.batch_size, sampler=order):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate_at(step, steps, len(model.decoder))
            loss = (batch - model(batch)).square().sum(1).mean() / variance
            optimizer.zero_grad()
            loss.backward()
            with torch.no_grad():
                gradient, atoms = model.decoder.grad, model.decoder
                assert gradient is not None and config.clip_norm is not None
                gradient -= (gradient * atoms).sum(1, keepdim=True) * atoms
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            with torch.no_grad():
                model.decoder.div_(model.decoder.norm(dim=1, keepdim=True))
            total += loss.item() * len(batch)
            step += 1
        curve.append(total / len(features))
    return curve

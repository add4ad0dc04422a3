"""Dead latents start anew as badly reconstructed examples (Bricken et al. 2023, "Towards Monosemanticity", resampling).

An example is drawn with a probability proportional to its squared error; its direction becomes the atom, and the
encoder's row at a fifth of the mean length of the rows of latents that are alive; at their whole length for a rule that
ranks, which would not keep a fifth of what others have. What the optimiser remembers of the latent is forgotten.
"""

import torch
from torch import Tensor
from torch.optim import Optimizer

from amalgam.tasks.sae.autoencoder import unit_norm
from amalgam.tasks.sae.rules import BatchTopK, JumpReLU, Matryoshka, TopK
from amalgam.tasks.sae.training.stack import Stack

EXAMPLES = 8192  # among which the badly reconstructed ones are looked for
ENCODER_SCALE = 0.2


@torch.no_grad()
def resample(stack: Stack, optimizer: Optimizer, examples: Tensor, dead_after: int, seed: int) -> None:
    """Replace the latents of every autoencoder that have been silent for `dead_after` examples.

    Draws depend on `seed` and on the autoencoder alone, not on the others of the stack.
    """
    for place, sae in enumerate(stack.unstacked()):
        dead = (stack.silent[place] >= dead_after).nonzero().flatten()
        if not len(dead):
            continue
        errors = (examples - sae(examples)).square().sum(1).double().cpu()
        draws = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(errors, len(dead), replacement=len(dead) > len(errors), generator=draws)
        directions = unit_norm(examples[chosen.to(examples.device)] - sae.bias)
        alive = torch.ones_like(stack.silent[place], dtype=torch.bool).index_fill(0, dead, False)
        length = sae.encoder[alive].norm(dim=1).mean() if alive.any() else 1.0
        scale = 1.0 if isinstance(sae.info.sparsity, TopK | BatchTopK | Matryoshka) else ENCODER_SCALE
        new: dict[str, Tensor | float] = {"decoder": directions, "encoder": scale * length * directions}
        if isinstance(sae.info.sparsity, JumpReLU):
            new["threshold"] = sae.info.sparsity.start
        for name, parameter in stack.named_parameters():
            if name == "bias" or not parameter.requires_grad:
                continue
            parameter[place, dead] = new.get(name, 0.0)
            for moment in ("exp_avg", "exp_avg_sq"):
                optimizer.state[parameter][moment][place, dead] = 0
        stack.silent[place, dead] = 0

"""The loss that pulls pictures to their captions and pushes them from others' (Radford et al. 2021).

Shapes: features (batch, width), of norm 1.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor | float, captions: Tensor) -> Tensor:
    """The mean cross-entropy of finding the caption to a picture, and the picture to a caption.

    `captions` (batch,) numbers the captions. Images of one caption have each other's as targets too, in equal shares.
    Where all differ this is CLIP's loss; so it is where equal captions have equal words, whose features are equal.
    `scale` multiplies cosines. In the number format of the features also under autocast, as the scale is large.
    """
    with torch.autocast(images.device.type, enabled=False):
        logits = scale * images @ texts.T
        same = (captions[:, None] == captions[None, :]).to(logits.dtype)
        targets = same / same.sum(1, keepdim=True)
        return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2


@torch.no_grad()
def retrieval(images: Tensor, texts: Tensor, captions: Tensor) -> Tensor:
    """The share of images whose nearest caption of the batch is theirs."""
    return (captions[(images @ texts.T).argmax(1)] == captions).float().mean()

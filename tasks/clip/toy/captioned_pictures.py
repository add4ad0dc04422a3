"""User-supplied pictures and captions as the endless stream that `pretrain` reads: every picture once in an epoch."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amalgam.tasks.clip.contrastive_loss import retrieval
from amalgam.tasks.data.loading import normalise
from amalgam.tasks.models.clip import Clip

BATCH = 256  # pictures encoded at once


@dataclass(frozen=True)
class CaptionedPictures:
    """Pictures in memory; those with several captions carry them in turn, from one pass to the next."""

    pixels: Tensor
    """uint8 (n, 3, h, w)."""
    captions: tuple[tuple[str, ...], ...]

    def batch(self, ids: Tensor) -> tuple[Tensor, list[str]]:
        """See `Captioned`: number i is picture i modulo n."""
        turns, places = ids // len(self.pixels), ids % len(self.pixels)
        said = [self.captions[place] for place in places.tolist()]
        return self.pixels[places], [each[turn % len(each)] for each, turn in zip(said, turns.tolist(), strict=True)]

    def taken(self, places: Tensor) -> "CaptionedPictures":
        """Some of them."""
        return CaptionedPictures(self.pixels[places], tuple(self.captions[place] for place in places.tolist()))


@torch.no_grad()
def caption_retrieval(clip: Clip, pictures: CaptionedPictures) -> float:
    """The share of pictures whose nearest caption, among the first ones of all of them, is theirs."""
    device = clip.model.logit_scale.device
    pixels, captions = pictures.batch(torch.arange(len(pictures.pixels)))
    images = torch.cat([clip.encode_image(normalise(part.to(device))) for part in pixels.split(BATCH)])
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    ids = torch.tensor([numbers[caption] for caption in captions], device=device)
    return retrieval(normalize(images, dim=1), normalize(clip.encode_text(captions), dim=1), ids).item()

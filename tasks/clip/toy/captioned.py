"""The endless stream of pictures and captions that a small world consists of.

Picture, style and caption of number i follow from (seed, i) alone, a wrong caption included.
"""

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from amalgam.tasks.clip.prompts import prompt
from amalgam.tasks.clip.toy.worlds import World
from amalgam.tasks.data.opening import open_renderer
from amalgam.tasks.data.random_numbers import RandomNumbers
from amalgam.tasks.data.synthetic.renderer import Renderer, draw_in

CAPTION = 3  # number of this random stream


class Captioned(Protocol):
    """An endless stream of pictures with captions."""

    def batch(self, ids: Tensor) -> tuple[Tensor, list[str]]:
        """The pictures of numbers `ids` (n,), uint8 (n, 3, h, w), and their captions."""
        ...


@dataclass(frozen=True)
class CaptionedWorld:
    """Pictures of a world in all seen styles."""

    world: World
    renderers: tuple[Renderer, ...]
    """What draws them; each picture is of one of these, at random."""
    seed: int
    device: torch.device | str = "cpu"
    """Where they are drawn."""

    def batch(self, ids: Tensor) -> tuple[Tensor, list[str]]:
        """See `Captioned`."""
        styles, sentences, away, renderers = self._drawn(ids)
        pictures, labels = self._pictures(ids, styles, renderers)
        return pictures, self._captions(styles, sentences, (labels + away) % len(self.world.captions.class_names))

    def _drawn(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Style, sentence and renderer of each picture; third, how far its class is from its caption's, all (n,)."""
        style, sentence, wrong, which, renderer = RandomNumbers(ids, self.seed, CAPTION).uniforms(5).T
        others = len(self.world.captions.class_names) - 1
        away = torch.where(wrong < self.world.wrong_captions, 1 + (which * others).long(), 0)
        return (
            (style * len(self.world.shown_styles)).long(),
            (sentence * len(self.world.captions.templates_of_pictures(self.world.seen_styles[0]))).long(),
            away,
            (renderer * len(self.renderers)).long(),
        )

    def _pictures(self, ids: Tensor, styles: Tensor, renderers: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures, and their classes as the captions count them."""
        places = [(renderers == number).nonzero()[:, 0] for number in range(len(self.renderers))]
        parts = [
            draw_in(renderer, ids[place].to(self.device), self.world.shown_styles, styles[place].to(self.device))
            for renderer, place in zip(self.renderers, places, strict=True)
        ]
        firsts = accumulate((len(renderer.class_names) for renderer in self.renderers[:-1]), initial=0)
        order = torch.cat(places).argsort()
        labels = torch.cat([labels.cpu() + first for (_, labels), first in zip(parts, firsts, strict=True)])
        return torch.cat([pictures for pictures, _ in parts])[order.to(self.device)], labels[order]

    def _captions(self, styles: Tensor, sentences: Tensor, classes: Tensor) -> list[str]:
        templates = [self.world.captions.templates_of_pictures(style) for style in self.world.shown_styles]
        names = self.world.captions.class_names
        rows = zip(styles.tolist(), sentences.tolist(), classes.tolist(), strict=True)
        return [prompt(templates[style][sentence], names[name]) for style, sentence, name in rows]


def open_world(world: World, root: Path | None, seed: int, device: torch.device | str = "cpu") -> CaptionedWorld:
    """The pictures of a world, drawn on a device; nothing is downloaded. Raises ValueError as `images.load` does."""
    renderers = tuple(open_renderer(source, root).to(device) for source in world.pretraining_sources(seed))
    return CaptionedWorld(world, renderers, seed, device)

"""The image encoder of a CLIP on its own, with a view of what happens inside it."""

from functools import partial

from torch import Tensor, nn

from amalgam.tasks.tracing.running import hooked
from amalgam.tasks.user_names import unknown_name

NUM_QUARTERS = 4  # levels inside the network, beside the one before its first block


class ImageTower(nn.Module):
    """Images (batch, channels, height, width) to features (batch, width), not normalised."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        output = self.visual(images)
        features = output[0] if isinstance(output, tuple) else output  # some towers give their tokens as well
        assert isinstance(features, Tensor)
        return features

    def with_levels(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features and, from the same pass, the tokens (batch, tokens, channels) at five depths (Mukhoti et al. 2024).

        They are taken before the first block and after each quarter of the blocks. Only for transformers of open_clip.
        """
        seen: dict[int, Tensor] = {}
        layers = self._layers()
        hooks = [layer.register_forward_hook(partial(_keep, seen, depth)) for depth, layer in enumerate(layers)]
        with hooked(hooks):
            features = self(images)
        return features, tuple(seen[depth] for depth in range(len(layers)))

    def patches(self, images: Tensor) -> Tensor | None:
        """Features of the patches, (batch, rows, columns, width): their last tokens, projected as the image's own.

        None of towers that are not vision transformers of open_clip with a token for the image.
        """
        from open_clip.transformer import VisionTransformer  # takes seconds to import

        visual, seen = self.visual, dict[int, Tensor]()
        if not isinstance(visual, VisionTransformer) or visual.pool_type != "tok" or visual.attn_pool is not None:
            return None
        with hooked([visual.transformer.register_forward_hook(partial(_keep, seen, 0))]):
            self(images)
        tokens = visual.ln_post(seen[0])[:, 1:]
        features: Tensor = tokens if visual.proj is None else tokens @ visual.proj
        return features.unflatten(1, visual.grid_size)

    def _layers(self) -> list[nn.Module]:
        try:
            blocks = list(self.visual.get_submodule("transformer.resblocks").children())
            first = self.visual.get_submodule("ln_pre")
        except AttributeError as error:
            kind = type(self.visual).__name__
            raise ValueError(f"levels need a vision transformer of open_clip, this is a {kind}") from error
        depths = sorted({max(1, round(len(blocks) * quarter / NUM_QUARTERS)) for quarter in range(1, NUM_QUARTERS + 1)})
        return [first, *(blocks[depth - 1] for depth in depths)]


def open_clip_tower(name: str) -> ImageTower:
    """The image encoder of an architecture of open_clip, with random weights. Raises ValueError for unknown names."""
    import open_clip  # takes seconds to import
    from open_clip.model import _build_vision_tower

    if name not in open_clip.list_models():
        raise unknown_name("CLIP architecture", name, open_clip.list_models())
    config = open_clip.get_model_config(name)
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    return ImageTower(_build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False)))


def _keep(seen: dict[int, Tensor], depth: int, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
    seen[depth] = output

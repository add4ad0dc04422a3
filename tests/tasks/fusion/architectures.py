"""The architectures that people bring: small variants of public networks, each with an example input."""

from collections.abc import Callable
from typing import Any

import open_clip
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

Make = Callable[[], nn.Module]


def timm_model(name: str, **options: Any) -> Make:
    return lambda: timm.create_model(name, num_classes=5, **options)


def torchvision_model(name: str, **options: Any) -> Make:
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=5, **options)


def open_clip_tower(layers: Any, width: int, patch: int | None = 8) -> Make:
    def make() -> nn.Module:
        vision = {"image_size": 32, "layers": layers, "width": width, "patch_size": patch, "head_width": width // 2}
        text = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
        return open_clip.CLIP(embed_dim=12, vision_cfg=vision, text_cfg=text).visual

    return make


class TransformerClassifier(nn.Module):
    """torch's own encoder over a sequence of vectors."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=norm_first)
        self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 5)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


class Bert(nn.Module):
    """Token, position and segment embeddings, separate projections of attention, post-norm, pooled first token."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30, width), nn.Embedding(12, width)
        self.segments, self.norm = nn.Embedding(2, width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.norm1, self.norm2, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, 5)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).permute(0, 2, 1, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        h = self.norm(self.words(tokens) + self.places(places) + self.segments(torch.zeros_like(tokens)))
        query, key, value = self.split(self.query(h)), self.split(self.key(h)), self.split(self.value(h))
        weights = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1)
        read = (weights @ value).permute(0, 2, 1, 3).contiguous()
        h = self.norm1(h + self.out(read.view(h.shape)))
        h = self.norm2(h + self.narrow(F.gelu(self.wide(h))))
        return self.classifier(torch.tanh(self.pooler(h[:, 0])))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and skips that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.down2, self.deep = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 10, 3, padding=1)
        self.up2, self.join2 = nn.ConvTranspose2d(10, 8, 2, 2), nn.Conv2d(16, 8, 3, padding=1)
        self.up1, self.join1 = nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(12, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = torch.relu(self.bn1(self.down1(x)))
        two = torch.relu(self.down2(F.max_pool2d(one, 2)))
        deep = torch.relu(self.deep(F.max_pool2d(two, 2)))
        up = torch.relu(self.join2(torch.cat([self.up2(deep), two], 1)))
        return self.head(torch.relu(self.join1(torch.cat([self.up1(up), one], 1))))


class GroupNormBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.GroupNorm(2, width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.GroupNorm(4, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


def group_norm_resnet() -> nn.Module:
    stem = [nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU()]
    return nn.Sequential(
        *stem, GroupNormBlock(8), GroupNormBlock(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


class RecurrentClassifier(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, **options: Any) -> None:
        super().__init__()
        self.embed, self.cells = nn.Embedding(20, 6), kind(6, 7, batch_first=True, **options)
        self.head = nn.Linear(14 if options.get("bidirectional") else 7, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.cells(self.embed(tokens))[0][:, -1])


def weight_norm_mlp() -> nn.Module:
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(norm(nn.Linear(6, 9)), nn.Tanh(), norm(nn.Linear(9, 7)), nn.GELU(), norm(nn.Linear(7, 5)))


class CosineHead(nn.Module):
    """Logits are scaled cosines between features and class vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8))
        self.classes, self.scale = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.tensor(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale.exp() * F.normalize(self.body(x), dim=1) @ F.normalize(self.classes, dim=1).t()


class TiedWords(nn.Module):
    """An embedding that is also the matrix of the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.body = nn.Embedding(20, 8), nn.Sequential(nn.Linear(8, 12), nn.Hardswish(), nn.Linear(12, 8))

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.body(self.words(tokens)), self.words.weight)


class PaddedShortcut(nn.Module):
    """Option A of He et al.: the shortcut's new channels are zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, padding=1)
        self.wide, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x))
        h = torch.relu(self.conv(h) + F.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        return self.head(torch.relu(h + self.wide(h)).mean((2, 3)))


class TiedAutoencoder(nn.Module):
    """One matrix encodes and decodes, written as torch code does it: transposed, or from the other side."""

    def __init__(self, is_transposed: bool) -> None:
        super().__init__()
        self.encoder, self.shift, self.is_transposed = nn.Linear(6, 9), nn.Parameter(torch.randn(6)), is_transposed

    def forward(self, x: Tensor) -> Tensor:
        code = torch.relu(self.encoder(x))
        if self.is_transposed:
            return F.linear(code, self.encoder.weight.t(), self.shift)
        return code @ self.encoder.weight + self.shift


class Denoiser(nn.Module):
    """The output is the input less what two layers find (DnCNN)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 9, 3, padding=1), nn.Conv2d(9, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.two(torch.relu(self.one(x)))


class GroupedQueries(nn.Module):
    """Four heads of queries share two of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, 16), nn.Linear(6, 8), nn.Linear(6, 8)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        read = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return self.head(read.transpose(1, 2).flatten(2))


def response_norms() -> nn.Module:
    """Local response norms of the input and of units, as in AlexNet's and GoogLeNet's first publications."""
    norms = [nn.LocalResponseNorm(size, alpha=0.5, k=2.0) for size in (2, 3)]
    layers = [norms[0], nn.Conv2d(3, 8, 3), nn.ReLU(), norms[1], nn.Conv2d(8, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


class ProjectedCells(nn.Module):
    """An LSTM whose hidden units are projections of its cells."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.cells = nn.LSTM(6, 9, batch_first=True, proj_size=4, **options)
        self.head = nn.Linear(8 if options.get("bidirectional") else 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


def pixel_shuffling() -> nn.Module:
    up = [nn.Conv2d(3, 8, 3, padding=1), nn.PixelShuffle(2), nn.LogSigmoid(), nn.Conv2d(2, 6, 3, groups=2)]
    return nn.Sequential(*up, nn.InstanceNorm2d(6, affine=True), nn.PixelUnshuffle(2), nn.Conv2d(24, 5, 3))


class Scalars(nn.Module):
    """One slope and one temperature for all units, and a gate of a single channel."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.slope, self.two = nn.Conv2d(3, 6, 3), nn.PReLU(), nn.Conv2d(6, 8, 3)
        self.gate, self.scale, self.head = nn.Conv2d(6, 1, 3), nn.Parameter(torch.tensor(1.5)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.slope(self.one(x))
        h = self.two(h * self.scale) * torch.sigmoid(self.gate(h))
        return self.head(h.mean((2, 3)))


ARCHITECTURES: dict[str, tuple[Make, tuple[int, ...]]] = {
    "resnet18": (timm_model("resnet18"), (3, 32, 32)),
    "resnet50": (timm_model("resnet50"), (3, 32, 32)),
    "wide_resnet50_2": (timm_model("wide_resnet50_2"), (3, 32, 32)),
    "vgg11_bn": (torchvision_model("vgg11_bn"), (3, 32, 32)),
    "alexnet": (torchvision_model("alexnet"), (3, 64, 64)),
    "googlenet": (torchvision_model("googlenet", aux_logits=False, init_weights=False), (3, 64, 64)),
    "densenet121": (torchvision_model("densenet121"), (3, 32, 32)),
    "squeezenet": (torchvision_model("squeezenet1_1"), (3, 48, 48)),
    "shufflenet": (torchvision_model("shufflenet_v2_x0_5"), (3, 32, 32)),
    "mobilenet_v2": (torchvision_model("mobilenet_v2"), (3, 32, 32)),
    "mobilenetv3_small_100": (timm_model("mobilenetv3_small_100"), (3, 32, 32)),
    "efficientnet_lite0": (timm_model("efficientnet_lite0"), (3, 32, 32)),
    "regnetx_002": (timm_model("regnetx_002"), (3, 32, 32)),
    "regnety_002": (timm_model("regnety_002"), (3, 32, 32)),
    "resnext26ts": (timm_model("resnext26ts"), (3, 32, 32)),
    "legacy_seresnet18": (timm_model("legacy_seresnet18"), (3, 32, 32)),
    "resnetv2_50": (timm_model("resnetv2_50"), (3, 32, 32)),
    "nf_resnet50": (timm_model("nf_resnet50"), (3, 32, 32)),
    "repvgg_a0": (timm_model("repvgg_a0"), (3, 32, 32)),
    "convnext_atto": (timm_model("convnext_atto"), (3, 32, 32)),
    "mixer_s32_224": (timm_model("mixer_s32_224", img_size=64), (3, 64, 64)),
    "vit_tiny": (timm_model("vit_tiny_patch16_224", img_size=32), (3, 32, 32)),
    "deit_tiny": (timm_model("deit_tiny_distilled_patch16_224", img_size=32), (3, 32, 32)),
    "swin_tiny": (timm_model("swin_tiny_patch4_window7_224", img_size=56), (3, 56, 56)),
    "open_clip_vit": (open_clip_tower(2, 16), (3, 32, 32)),
    "open_clip_resnet": (open_clip_tower([1, 1, 1, 1], 8, None), (3, 32, 32)),
    "transformer_encoder": (TransformerClassifier, (7, 6)),
    "bert": (Bert, (9,)),
    "unet": (UNet, (3, 8, 8)),
    "group_norm_resnet": (group_norm_resnet, (3, 8, 8)),
    "lstm": (RecurrentClassifier, (6,)),
    "gru": (lambda: RecurrentClassifier(nn.GRU, bidirectional=True, num_layers=2), (6,)),
    "tied_words": (TiedWords, (4,)),
    "padded_shortcut": (PaddedShortcut, (3, 8, 8)),
    "pixel_shuffle": (pixel_shuffling, (3, 6, 6)),
    "scalars": (Scalars, (3, 8, 8)),
    "weight_norm_mlp": (weight_norm_mlp, (6,)),
    "cosine_head": (CosineHead, (6,)),
    "tied_autoencoder": (lambda: TiedAutoencoder(is_transposed=False), (6,)),
    "transposed_autoencoder": (lambda: TiedAutoencoder(is_transposed=True), (6,)),
    "denoiser": (Denoiser, (3, 8, 8)),
    "response_norms": (response_norms, (3, 8, 8)),
    "grouped_queries": (GroupedQueries, (7, 6)),
    "projected_lstm": (ProjectedCells, (7, 6)),
    "projected_lstms": (lambda: ProjectedCells(bidirectional=True, num_layers=2, bias=False), (7, 6)),
}
"""Name -> how to build it, and the shape of one input; those that read words take whole numbers below 20."""

WORDS = ("bert", "lstm", "gru", "tied_words")


def example_of(name: str, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    shape = (batch, *ARCHITECTURES[name][1])
    if name in WORDS:
        return torch.randint(20, shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def member_of(name: str, seed: int) -> nn.Module:
    """A random member in double precision whose norms, biases and gains are not at their uninformative defaults."""
    torch.manual_seed(seed)
    module = ARCHITECTURES[name][0]().double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim < 2:
                parameter.add_(0.2 * torch.randn_like(parameter))
        for path, buffer in module.named_buffers():
            if path.endswith("running_mean"):
                buffer.normal_(0, 0.2)
            if path.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return module

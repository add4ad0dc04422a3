"""Transcoders: sparse latents of the features at one place that predict those at another (Dunefsky et al. 2024).

    pre-activations  p = W_e x + c        output  W_d s + b (+ W_skip x)

Read and written in SAELens's layout and evaluated; training is that of autoencoders only.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear

from amalgam.tasks.sae.autoencoder import SparseAutoencoder
from amalgam.tasks.sae.codes import Codes
from amalgam.tasks.sae.config import SAEInfo


class TranscoderInfo(SAEInfo):
    """What a transcoder is; `width` is that of its inputs."""

    num_outputs: int = Field(ge=1)
    """Length of an output vector."""
    skip: bool = False
    """Whether a linear map of the input is added to the output."""


class Transcoder(SparseAutoencoder):
    """A sparse autoencoder whose decoder and bias have another width than its encoder."""

    info: TranscoderInfo

    def __init__(self, info: TranscoderInfo) -> None:
        super().__init__(info)
        self.decoder = nn.Parameter(torch.zeros(info.num_latents, info.num_outputs))
        self.bias = nn.Parameter(torch.zeros(info.num_outputs))
        if info.skip:
            self.skip = nn.Parameter(torch.zeros(info.num_outputs, info.width))
            """W_skip, (num_outputs, width)."""

    def centred(self, features: Tensor) -> Tensor:
        """The features themselves: the bias belongs to the output."""
        return features

    def output(self, codes: Codes, features: Tensor) -> Tensor:
        """The predicted output, (..., num_outputs), of features (..., width)."""
        predicted = self.decode(codes)
        return predicted + linear(features, self.skip) if self.info.skip else predicted

"""Training of the kinds whose sparsity is a penalty: ReLU with L1, and gated. Axes as in `stack`.

Atoms' norms are part of the penalty, or longer atoms with smaller activations would avoid it.
"""

from collections.abc import Mapping

from torch import Tensor

from amalgam.tasks.sae.codes import DenseCodes, magnitudes


def l1_norms(activations_BGM: Tensor, decoder_GMD: Tensor) -> Tensor:
    """Mean over examples of sum(activation * norm of its atom), (stack,)."""
    return (activations_BGM * decoder_GMD.norm(dim=-1)).sum(-1).mean(0)


def penalised(pre_BGM: Tensor, decoder_GMD: Tensor, weights_G: Tensor, deviation: float) -> tuple[DenseCodes, Tensor]:
    """The positive pre-activations, and the penalty on their sum, (stack,)."""
    activations = pre_BGM.relu()
    return DenseCodes(activations), weights_G * l1_norms(activations, decoder_GMD) / deviation


def gated(
    pre_BGM: Tensor, centred_BGD: Tensor, parameters: Mapping[str, Tensor], weights_G: Tensor, deviation: float
) -> tuple[DenseCodes, Tensor]:
    """The activations, and the penalty with the gate's own loss, (stack,) (Rajamanoharan et al. 2024a, eq. 8).

    The gate is a step, without a gradient: what trains it is the penalty and how well its pre-activations alone
    reconstruct with the atoms as they are, which that error does not train.
    """
    decoder = parameters["decoder"]
    gate, penalty = penalised(pre_BGM, decoder, weights_G, deviation)
    activations = magnitudes(pre_BGM, parameters["encoder_bias"], parameters["log_scale"], parameters["magnitude_bias"])
    error = centred_BGD.detach() - gate.decode(decoder.detach())
    return DenseCodes(activations), penalty + error.square().sum((0, 2)) / (len(error) * deviation**2)

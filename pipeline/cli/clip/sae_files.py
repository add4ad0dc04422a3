"""`amalgam sae train` and `eval`: activations in files in, an autoencoder's folder or its results out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path

import torch
from scipy.sparse import vstack
from torch import Tensor

from amalgam.pipeline.cli.clip.sae_card import write_card
from amalgam.pipeline.engine.host import require_device
from amalgam.pipeline.store.artifact import new_folder
from amalgam.pipeline.store.clip_checkpoints import open_sae, save_sae
from amalgam.pipeline.store.tables.features import as_wanted
from amalgam.pipeline.store.tables.matrices import Matrix, open_matrix, read_labels
from amalgam.pipeline.store.tables.results import write_results
from amalgam.tasks.sae.autoencoder import SparseAutoencoder
from amalgam.tasks.sae.config import FeatureInfo, SAESpec, SAETrainConfig
from amalgam.tasks.sae.metrics import QualityMeter
from amalgam.tasks.sae.probing import probe_scores, sparse_rows
from amalgam.tasks.sae.training.rows import Chunk, Streamed
from amalgam.tasks.sae.training.train import train
from amalgam.tasks.sae.transcoder import Transcoder
from amalgam.tasks.scoring.results import Network, Result

DENSE = 1 << 22  # activations of a batch, as a dense matrix, that are measured at once


@dataclass(frozen=True)
class TrainRequest:
    """What `amalgam sae train` is asked for."""

    activations: Path
    spec: SAESpec
    training: SAETrainConfig
    out: Path
    source: str | None
    column: str | None
    unit_norm: bool
    buffer_rows: int
    device: str


@dataclass(frozen=True)
class EvalRequest:
    """What `amalgam sae eval` is asked for."""

    sae: Path
    activations: Path
    labels: Path | None
    targets: Path | None
    ks: tuple[int, ...]
    probe_rows: int
    column: str | None
    out: Path | None
    seed: int
    device: str


def train_files(request: TrainRequest, say: Callable[[str], None]) -> None:
    """Train one autoencoder; write its folder with results on about `buffer_rows` of its rows, and its card.

    More rows than that are streamed. Raises ValueError, before anything is written, for bad input.
    """
    require_device(request.device)
    matrix = open_matrix(request.activations, request.column)
    source = request.source or request.activations.stem
    about = FeatureInfo(width=matrix.width, normalised=request.unit_norm, backbone=source)
    info = request.spec.info(about)

    def log(metrics: dict[str, float], epoch: int) -> None:
        fvu, l0, dead = (metrics[f"{request.spec.name}/{name}"] for name in ("fvu", "l0", "dead_share"))
        say(f"epoch {epoch}: explained variance {1 - fvu:.4f}, L0 {l0:.1f}, dead latents {100 * dead:.1f} %")

    with new_folder(request.out) as folder:
        (sae,) = train(rows_of(matrix, about, request), about, [request.spec], request.training, log=log)
        origin = {"dataset_path": request.activations.name, "training": request.training.model_dump(mode="json")}
        sae.info = info.model_copy(update={"origin": origin})
        save_sae(sae, folder, rescaled=True)
        every = -(-matrix.num_rows // request.buffer_rows)  # of many rows, chunks from everywhere
        sample = replace(matrix, chunks=matrix.chunks[::every])
        results = measured(sae, request.spec.name_without_seed, sample, request.device, seed=request.spec.seed)
        write_results(results, folder)
        write_card(folder)


def rows_of(matrix: Matrix, about: FeatureInfo, request: TrainRequest) -> Tensor | Streamed:
    """The rows as an autoencoder reads them: in memory if they fit the buffer."""

    def wanted(chunk: Chunk) -> Tensor:
        return as_wanted(chunk.load(), about)

    device = torch.device(request.device)
    if matrix.num_rows <= request.buffer_rows:
        return torch.cat([wanted(chunk) for chunk in matrix.chunks]).to(device)
    chunks = [replace(chunk, load=partial(wanted, chunk)) for chunk in matrix.chunks]
    return Streamed(chunks, matrix.width, request.buffer_rows, device)


def evaluate_files(request: EvalRequest) -> list[str]:
    """What was measured, in lines; `results.parquet` in the folder `out`, if one is given."""
    require_device(request.device)
    sae = open_sae(request.sae).to(request.device)
    if (request.targets is None) == isinstance(sae, Transcoder):
        raise ValueError(f"{request.sae}: --targets are for transcoders, and each of these needs them")
    matrix = open_matrix(request.activations, request.column)
    targets = open_matrix(request.targets) if request.targets else None
    if targets and targets.num_rows != matrix.num_rows:
        raise ValueError(
            f"{request.targets} has {targets.num_rows} rows for {matrix.num_rows} of {request.activations}"
        )
    labels = read_labels(request.labels, matrix.num_rows) if request.labels else matrix.labels
    results = measured(sae, request.sae.resolve().name, matrix, request.device, targets)
    if labels is not None:
        results += probed(sae, matrix, labels, request)
    if request.out:
        request.out.mkdir(parents=True, exist_ok=True)
        write_results(results, request.out)
    return [f"{result.metric}: {result.value:.4f}" for result in results]


def measured(
    sae: SparseAutoencoder, name: str, matrix: Matrix, device: str, targets: Matrix | None = None, seed: int = 0
) -> list[Result]:
    """Explained variance, L0 and the share of dead latents."""
    meter = QualityMeter(sae)
    size = block_rows(sae)
    others = targets.blocks(size) if targets else repeat(None)
    for rows, other in zip(matrix.blocks(size), others, strict=False):
        wanted = None if other is None else other.float().to(device)
        meter.update(as_wanted(rows.to(device), sae.info), targets=wanted)
    found = meter.result()
    numbers = {
        "explained_variance": 1 - found.fvu,
        "cosine": found.cosine,
        "l0": found.l0,
        "dead_share": found.dead_share,
        "num_examples": float(found.num_examples),
    }
    network = Network(kind="autoencoder", method=name, seed=seed)
    return [Result(network, "activations", None, metric, value) for metric, value in numbers.items()]


def block_rows(sae: SparseAutoencoder) -> int:
    """Rows that are encoded at once."""
    return max(1, DENSE // sae.info.num_latents)


@torch.no_grad()
def probed(sae: SparseAutoencoder, matrix: Matrix, labels: Tensor, request: EvalRequest) -> list[Result]:
    """Sparse probing and absorption on rows that `seed` draws."""
    if isinstance(sae, Transcoder):
        raise ValueError("labels are for autoencoders: the atoms of a transcoder are of other features than it reads")
    chosen = torch.rand(matrix.num_rows, generator=torch.Generator().manual_seed(request.seed)).argsort()
    is_chosen = torch.zeros(matrix.num_rows, dtype=torch.bool).index_fill(0, chosen[: request.probe_rows], True)
    features, codes = list[Tensor](), []
    size = block_rows(sae)
    for block, mask in zip(matrix.blocks(size), is_chosen.split(size), strict=True):
        if mask.any():
            rows = as_wanted(block[mask].to(request.device), sae.info)
            codes.append(sparse_rows(sae.encode(rows)))
            features.append((rows - sae.bias).cpu())
    atoms = sae.decoder.detach().double().cpu().numpy()
    found = probe_scores(
        torch.cat(features).double().numpy(),
        vstack(codes, format="csr"),
        labels[is_chosen].numpy(),
        atoms,
        request.ks,
        request.seed,
    )
    numbers = {"probe_classes": float(found.num_classes), "probe_features": found.features}
    numbers |= {f"probe_{k}": value for k, value in found.latents.items()}
    numbers |= {} if found.absorption is None else {"absorption": found.absorption}
    network = Network(kind="autoencoder", method=request.sae.resolve().name)
    return [Result(network, "labels", None, metric, value) for metric, value in numbers.items()]

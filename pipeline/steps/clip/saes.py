"""Train the sparse autoencoders of a sweep on staged features, and measure each on every domain of those."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import Field

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.sae.config import FeatureInfo, SAESpec, SAETrainConfig
from amalgam.tasks.scoring.results import Network, Result

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.pipeline.store.tables.features import FeatureTable
    from amalgam.tasks.sae.autoencoder import SparseAutoencoder
    from amalgam.tasks.sae.metrics import Quality

RATES = "firing_rates.parquet"
ATOMS = "atoms"  # the role of what no image says of autoencoders
MEASURES = (
    *("fvu", "cosine", "l0", "dead_share", "accuracy", "reconstruction_accuracy", "monosemanticity", "similarity"),
)
BATCH = 4096  # feature vectors measured at once


class ChosenSAE(Config):
    """One of the autoencoders of a step, and which features its reader gives it."""

    name: str
    """Its folder."""
    normalised: bool = True
    """Whether its inputs are features of norm 1; one that was trained on others is refused."""


class SAEsConfig(Config):
    """Sparse autoencoders trained in one pass over staged features."""

    specs: tuple[SAESpec, ...] = Field(min_length=1)
    training: SAETrainConfig
    normalised: bool = True
    """Whether features are scaled to norm 1 first, as heads read them; else they are as the encoder gave them."""

    @property
    def first(self) -> ChosenSAE:
        """The one that fine-tuning uses."""
        return ChosenSAE(name=self.specs[0].name, normalised=self.normalised)


def train_saes(config: SAEsConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write a folder for each autoencoder, results on features of every domain, and how often latents are active."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from amalgam.pipeline.engine.resuming import resume_state, saver
    from amalgam.pipeline.store.clip_checkpoints import load_classifier, read_about, save_sae
    from amalgam.pipeline.store.tables.features import as_wanted, read_features
    from amalgam.pipeline.store.tables.results import write_results
    from amalgam.tasks.sae.training.train import train

    backbone = read_about(inputs["classifier"]).backbone
    table = read_features(inputs["features"], backbone=backbone)
    about = FeatureInfo(width=table.features.shape[1], normalised=config.normalised, backbone=backbone)
    saes = train(
        as_wanted(table.features.to(work.device), about),
        about,
        config.specs,
        config.training,
        log=work.log,
        resume=resume_state(work),
        save=saver(work),
    )
    for spec, sae in zip(config.specs, saes, strict=True):
        save_sae(sae, work.out / spec.name)
    head = load_classifier(inputs["classifier"]).head.get_parameter("weight").detach()
    rows, rates = list[Result](), list[dict[str, Any]]()
    for spec, sae in zip(config.specs, saes, strict=True):
        for domain, quality in _by_domain(sae, table, head).items():
            network = identity_of(spec.name_without_seed, spec.seed)
            rows += [Result(network, "training", domain, name, value) for name, value in numbers(quality).items()]
            of_latents = enumerate(quality.firing_rates.tolist())
            rates += [{"autoencoder": spec.name, "domain": domain, "latent": n, "rate": rate} for n, rate in of_latents]
    rows += stability(config.specs, saes)
    write_results(rows, work.out)
    pq.write_table(pa.Table.from_pylist(rates), work.out / RATES, compression="zstd")
    return {_name(row): row.value for row in rows}


def identity_of(name: str, member: int | None = None, seed: int = 0) -> Network:
    """An autoencoder, or all that differ in their seed `member` alone, of a repetition."""
    return Network(kind="autoencoder", method=name, member=member, seed=seed)


def stability(specs: Sequence[SAESpec], saes: Sequence[SparseAutoencoder]) -> list[Result]:
    """Mean cosine of matched atoms between autoencoders that differ in their seed alone, over all such pairs."""
    alike: dict[str, list[SparseAutoencoder]] = defaultdict(list)
    for spec, sae in zip(specs, saes, strict=True):
        alike[spec.name_without_seed].append(sae)
    groups = {name: group for name, group in alike.items() if len(group) > 1}
    return [Result(identity_of(name), ATOMS, None, "stability", agreement(group)) for name, group in groups.items()]


def agreement(saes: Sequence[SparseAutoencoder]) -> float:
    """Mean cosine of matched atoms, over all pairs of two or more autoencoders of one size."""
    from amalgam.tasks.sae.metrics import matched_cosines

    pairs = combinations([sae.decoder.detach() for sae in saes], 2)
    return fmean(matched_cosines(one, other).mean().item() for one, other in pairs)


def numbers(quality: Quality) -> dict[str, float]:
    """What was measured, by name."""
    named = {name: getattr(quality, name) for name in MEASURES}
    return {name: value for name, value in named.items() if value is not None}


def _by_domain(sae: SparseAutoencoder, table: FeatureTable, head: Tensor) -> dict[str, Quality]:
    from amalgam.pipeline.store.tables.features import as_wanted
    from amalgam.tasks.sae.metrics import quality_by_domain

    parts = (column.split(BATCH) for column in (table.features, table.labels, table.domain_codes))
    batches = (
        (as_wanted(features.to(sae.decoder.device), sae.info), labels, codes)
        for features, labels, codes in zip(*parts, strict=True)
    )
    return {table.domains[code]: quality for code, quality in quality_by_domain(sae, batches, head).items()}


def _name(row: Result) -> str:
    """What the summary calls a number: `topk-16-x4-s0/DOMAIN/fvu`, `topk-16-x4/stability`."""
    seed = "" if row.network.member is None else f"-s{row.network.member}"
    return "/".join(filter(None, (row.network.method + seed, row.test_set, row.metric)))


def read_chosen(folder: Path, chosen: ChosenSAE | None, width: int, backbone: str) -> SparseAutoencoder | None:
    """One of the autoencoders; None if none is chosen.

    Raises ValueError if it was trained on features of another width or backbone, or scaled otherwise.
    """
    from amalgam.pipeline.store.clip_checkpoints import read_sae

    if chosen is None:
        return None
    features = FeatureInfo(width=width, normalised=chosen.normalised, backbone=backbone)
    return read_sae(folder, chosen.name, features)


SAES = Kind("saes", train_saes, SAEsConfig, version=2, expect=Expect(10, 1_000_000), read=read_chosen)

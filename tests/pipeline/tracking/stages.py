"""A small experiment for the tests of tracking: members with curves, their staged rows, evaluations, one report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.tables.rows_schema import RowsSchema
from amalgam.pipeline.store.tables.rows_writer import RowsWriter

SITES = {"layers.0": (6, 1), "layers.1": (4, 2)}


def member(config: Mapping[str, Any], inputs: Mapping[str, Path], work: Workspace) -> dict[str, float | str]:
    """Pretend to train: curves, a checkpoint, a summary."""
    generator = np.random.default_rng(config["seed"])
    loss = np.exp(-np.arange(config["epochs"]) / 8) + generator.normal(scale=0.02, size=config["epochs"])
    for epoch, value in enumerate(loss):
        work.log({"train/loss": value, "validation/accuracy": 1 - value / 3}, step=epoch)
    (work.out / "model.safetensors").write_bytes(generator.bytes(2000))
    return {"test/accuracy": 0.9 + config["seed"] / 100, "validation/accuracy": 0.97, "data_fingerprint": "d" * 16}


def statistics(config: Mapping[str, Any], inputs: Mapping[str, Path], work: Workspace) -> dict[str, float]:
    """Stage the rows of a member."""
    schema = RowsSchema(sites=SITES, provenance={"member_fingerprint": inputs["member"].name})
    with RowsWriter(work.out / "rows.parquet", schema) as writer:
        values = {site: np.random.default_rng(0).normal(size=(50, schema.width(site))) for site in SITES}
        writer.write(np.arange(50), np.arange(50) % 10, "probe", values)
    return {"rows": 50}


def evaluation(config: Mapping[str, Any], inputs: Mapping[str, tuple[Path, ...]], work: Workspace) -> dict[str, float]:
    """Pretend to fuse and evaluate."""
    alpha = config["method"]["alpha"]
    return {
        "test/accuracy": 0.85 + 0.12 * alpha,
        "test/nll": 0.4 - 0.2 * alpha,
        "test/calibration_error": 0.05 - 0.02 * alpha,
        "cost/nonzero_parameters": 1000 * (1 + 2 * alpha - alpha**2),
        "cost/nonzero_flops": 2000 * (1 + 2 * alpha - alpha**2),
    }


def report(config: Mapping[str, Any], inputs: Mapping[str, tuple[Path, ...]], work: Workspace) -> dict[str, float]:
    """Write what a report has: a table, a picture, a page."""
    (work.out / "frontier.md").write_text("| alpha | accuracy |\n|---|---|\n| 0.5 | 0.93 |\n")
    (work.out / "frontier.csv").write_text("alpha,accuracy\n0.5,0.93\n")
    (work.out / "frontier.html").write_text("<p>0.93</p>")
    return {"test/accuracy": 0.97}


def stage(name: str, config: Mapping[str, Any], **inputs: Any) -> Step:
    """The step of one of the functions above."""
    return Step(name, f"tests.pipeline.tracking.stages:{name}", config, inputs)


def frontier(alphas: tuple[float, ...] = (0.0, 0.5), num_members: int = 2, epochs: int = 3) -> Step:
    """The whole experiment."""
    members = tuple(stage("member", {"seed": seed, "epochs": epochs}) for seed in range(num_members))
    rows = tuple(stage("statistics", {"split": "probe"}, member=one) for one in members)
    evaluations = tuple(
        stage("evaluation", {"method": {"name": "PartialOT", "alpha": alpha}}, members=members, statistics=rows)
        for alpha in alphas
    )
    return stage("report", {"title": "frontier"}, evaluations=evaluations)

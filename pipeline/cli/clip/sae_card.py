"""The card of an autoencoder: README.md with a YAML head, in the layout of a Hugging Face model folder."""

import json
from pathlib import Path
from typing import Any

from amalgam.pipeline.store.artifact import written_whole
from amalgam.pipeline.store.clip_checkpoints import SAE_CONFIG, SAE_WEIGHTS, open_sae
from amalgam.pipeline.store.tables.results import RESULTS, read_results
from amalgam.tasks.sae.config import SAEInfo
from amalgam.tasks.sae.transcoder import TranscoderInfo
from amalgam.tasks.scoring.results import Result

MEANINGS = {
    "explained_variance": "share of the variance of the activations that reconstructions explain",
    "cosine": "mean cosine of activations and reconstructions",
    "l0": "active latents of a row, mean",
    "dead_share": "share of latents that are active in no row",
    "num_examples": "rows measured",
    "probe_classes": "classes probed, each against the rest",
    "probe_features": "balanced accuracy of a probe on the activations",
    "absorption": "share of rows whose class another latent than the main ones of the class represents",
}


def write_card(folder: Path, license: str | None = None) -> Path:
    """Write the card from the folder's settings, weights and, if there is one, table of results; its path.

    Raises ValueError if the folder holds no autoencoder.
    """
    info = open_sae(folder).info
    results = read_results(folder) if (folder / RESULTS).is_file() else []
    name = results[0].network.method if results else folder.resolve().name
    text = "\n".join([*_head(info, name, license, results), *_body(info, name, results)]) + "\n"
    path = folder / "README.md"
    with written_whole(path) as partial:
        partial.write_text(text)
    return path


def _head(info: SAEInfo, name: str, license: str | None, results: list[Result]) -> list[str]:
    """YAML: every scalar is written as JSON, which is YAML."""
    data = str(info.origin.get("dataset_path", info.backbone))
    head: dict[str, Any] = {"license": license} if license else {}
    head |= {"library_name": "saelens", "tags": ["sparse-autoencoder", "saelens", "amalgam", info.sparsity.kind]}
    if results:
        metrics = [{"type": r.metric, "name": r.metric, "value": r.value} for r in results]
        measured = {
            "task": {"type": "feature-extraction", "name": "Reconstruction of activations"},
            "dataset": {"type": "activations", "name": data},
            "metrics": metrics,
        }
        head["model-index"] = [{"name": name, "results": [measured]}]
    return ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]


def _body(info: SAEInfo, name: str, results: list[Result]) -> list[str]:
    is_transcoder = isinstance(info, TranscoderInfo)
    rule = ", ".join(f"{key} {value}" for key, value in info.sparsity.model_dump().items() if key != "kind")
    reads = "scaled to norm 1" if info.normalised else "as they are"
    facts = {
        "source of the activations": info.backbone,
        "width": f"{info.width}, {reads}",
        "latents": info.num_latents,
        "sparsity": f"{type(info.sparsity).__name__} ({rule})",
    } | {key: value for key, value in info.origin.items() if not isinstance(value, dict)}
    lines = [f"# {name}", "", f"A sparse {'transcoder' if is_transcoder else 'autoencoder'} in SAELens's layout:"]
    lines += [f"`{SAE_CONFIG}` and `{SAE_WEIGHTS}`.", "", "| | |", "| --- | --- |"]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    lines += ["", "```python", "from sae_lens import SAE", "", 'sae = SAE.load_from_disk("FOLDER")', "```", ""]
    if results:
        lines += ["| measure | value | meaning |", "| --- | ---: | --- |"]
        lines += [f"| {r.metric} | {r.value:.4g} | {_meaning(r.metric)} |" for r in results] + [""]
    if training := info.origin.get("training"):
        lines += ["Training:", "", "```json", json.dumps(training, indent=1), "```"]
    return lines


def _meaning(metric: str) -> str:
    start, _, k = metric.rpartition("_")
    return (
        f"balanced accuracy of probes on {k} latents" if start == "probe" and k.isdigit() else MEANINGS.get(metric, "")
    )

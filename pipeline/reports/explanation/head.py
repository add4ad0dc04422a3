"""Which network an explanation is of, read from the record of the step that trained it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amalgam.pipeline.reports.explanation.request import ExplainRequest
from amalgam.pipeline.store.artifact import RECORD, read_record
from amalgam.tasks.sae.config import SAEInfo
from amalgam.tasks.sae.rules import num_active


def head(request: ExplainRequest, sae: SAEInfo) -> dict[str, str]:
    """Method, strength, seed, data and autoencoder by name; what nobody recorded is left out."""
    return {**trained(request.after), **request.about, "autoencoder": _autoencoder(request, sae)}


def trained(folder: Path) -> dict[str, str]:
    """How a network was fine-tuned, by the record of its step."""
    if not (folder / RECORD).is_file():
        return {"network": folder.name}
    config = read_record(folder).config
    finetuning: Mapping[str, Any] = config.get("finetuning") or {}
    penalty = (finetuning.get("regulariser") or {}).get("class", "")
    found = {"method": f"{finetuning.get('trained', 'everything')} trained, {penalty or 'no penalty'}"}
    if penalty and penalty != "NoPenalty":
        found["strength"] = f"{finetuning['strength']:g}"
    found["seed"] = str(config.get("seed", ""))
    found["fine-tuned on"] = _data((config.get("labelled") or {}).get("source") or {})
    return {name: text for name, text in found.items() if text}


def _data(source: Mapping[str, Any]) -> str:
    """What a recorded source of images is, in words."""
    inner = next((value for value in source.values() if isinstance(value, Mapping) and "name" in value), {})
    parts = [inner.get("name"), source.get("style"), source.get("split")]
    number = source.get("num_images")
    return ", ".join([str(part) for part in parts if part] + ([f"{number:,} images"] if number else []))


def _autoencoder(request: ExplainRequest, sae: SAEInfo) -> str:
    name = request.sae_name or request.sae.name
    active = num_active(sae.sparsity)
    return f"{name}: {sae.num_latents:,} latents, {sae.sparsity.kind}" + (f", {active:g} active" if active else "")

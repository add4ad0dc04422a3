"""`amalgam pretrain`: pictures and captions in, a folder with a CLIP out; no store and no Ray."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from amalgam.pipeline.console import say
from amalgam.pipeline.engine.host import free_bytes, require_device
from amalgam.pipeline.store.artifact import new_folder
from amalgam.pipeline.store.clip_checkpoints import save_clip
from amalgam.tasks.clip.toy.captioned_pictures import CaptionedPictures, caption_retrieval
from amalgam.tasks.clip.toy.config import PretrainConfig
from amalgam.tasks.clip.toy.pairs import Pairs
from amalgam.tasks.clip.toy.pretrain import pretrain
from amalgam.tasks.data.layouts import open_picture
from amalgam.tasks.data.reading.pictures import PictureFiles
from amalgam.tasks.models.clip import build_clip
from amalgam.tasks.models.clip_spec import OPEN_CLIP_CONFIG, ClipSpec

MEMORY_SHARE = 0.5  # of what is free, that pictures may take


@dataclass(frozen=True)
class PretrainRequest:
    """What is trained on what."""

    pairs: Pairs
    spec: ClipSpec
    training: PretrainConfig
    num_held_out: int
    seed: int
    device: str


def pretrain_pairs(request: PretrainRequest, out: Path) -> Iterator[str]:
    """Train, and write the CLIP to `out`; what came of it, in sentences.

    Raises ValueError, before anything is trained or lies in `out`, for bad input.
    """
    require_device(request.device)
    with new_folder(out) as folder:
        clip = build_clip(request.spec)
        pictures = _read(request)
        order = torch.randperm(len(pictures.pixels), generator=torch.Generator().manual_seed(request.seed))
        held_out, kept = pictures.taken(order[: request.num_held_out]), pictures.taken(order[request.num_held_out :])
        train = request.training.train
        yield (
            f"{len(kept.pixels)} pictures of {pictures.pixels.shape[2]} pixels, "
            f"{request.num_held_out} held out, {train.epochs} epochs of {request.training.steps_per_epoch} steps"
        )
        trained = pretrain(clip, kept, request.training, request.seed, log=_log, device=request.device)
        if request.num_held_out:
            share, different = caption_retrieval(trained, held_out), len({each[0] for each in held_out.captions})
            yield f"held-out pictures that find their caption among {different}: {100 * share:.1f} %"
        trained.model.cpu()
        save_clip(trained, request.spec, folder)
        prepared = trained.preprocessing.model_dump(mode="json")
        content = {"model_cfg": request.spec.architecture, "preprocess_cfg": prepared}
        (folder / OPEN_CLIP_CONFIG).write_text(json.dumps(content, indent=2) + "\n")
    yield f"pre-trained CLIP: {out}"


def _read(request: PretrainRequest) -> CaptionedPictures:
    """All pictures, decoded. Raises ValueError if they do not fit into memory, or one is damaged."""
    prepared, files = request.spec.preprocessing, request.pairs.files
    assert prepared is not None, "the command says how pictures are prepared"
    if len(set(prepared.size)) > 1:
        raise ValueError(f"pictures are made squares, but the architecture reads {prepared.size}: choose another")
    size, needed = prepared.size[0], 3 * len(files) * prepared.size[0] * prepared.size[1]
    if needed > (available := MEMORY_SHARE * free_bytes("cpu")):
        raise ValueError(
            f"{len(files)} pictures of {size} pixels take {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB "
            "can be used: choose fewer, or a smaller --image-size"
        )
    names = tuple(map(str, files))
    reader = PictureFiles(lambda place: open_picture(files[place]), size, "bicubic", names=names)
    return CaptionedPictures(reader.squares(range(len(files))), request.pairs.captions)


def _log(metrics: dict[str, float], epoch: int) -> None:
    loss, found = metrics["pretrain/loss"], metrics["pretrain/retrieval"]
    say(f"epoch {epoch}: loss {loss:.3f}, captions found in their batch {100 * found:.1f} %")

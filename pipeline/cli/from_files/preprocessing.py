"""How images are prepared for networks in files: by flags, a library's configuration or Amalgam's records.

Nothing is assumed: what none of them gives must be given by flags.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from amalgam.pipeline.cli.errors import flag
from amalgam.pipeline.store.canonical import read_object
from amalgam.tasks.data.catalogue import FOLDER_IMAGE_SIZE, KINDS, KNOWN, DataSpec

RECORDS = ("fusion.json", "step.json")
"""Where Amalgam's folders say what data a network was made with."""

Scale = float | tuple[float, ...]


@dataclass(frozen=True)
class Preparation:
    """How pictures are prepared; None where that is unknown."""

    image_size: int | None = None
    mean: Scale | None = None
    std: Scale | None = None
    interpolation: str | None = None
    crop: float | None = None

    def over(self, other: "Preparation") -> "Preparation":
        """This one, and the other where it says nothing."""
        return replace(other, **{name: value for name, value in asdict(self).items() if value is not None})

    def __str__(self) -> str:
        values = [f"{FLAGS[name]} {_text(value)}" for name, value in asdict(self).items() if value is not None]
        return " ".join(values)


FLAGS = {field.name: flag(field.name) for field in fields(Preparation)}


def prepared(data: DataSpec, given: Preparation, known: Sequence[tuple[str, Preparation]]) -> tuple[DataSpec, str]:
    """The data as the members were fed them, and a sentence that says how and by whom that is known.

    `known` are sources and what they say. Raises ValueError if they disagree about something that is not given, or if
    something is not known.
    """
    whole, sources = given, ["given"] * (given != Preparation())
    for source, preparation in known:
        for name in FLAGS:
            ours, theirs = getattr(whole, name), getattr(preparation, name)
            if getattr(given, name) is None and None not in (ours, theirs) and ours != theirs:
                raise ValueError(
                    f"{source} was made with {FLAGS[name]} {_text(theirs)}, another member with {_text(ours)}: one "
                    "network cannot serve both; if they are the same, give the flag"
                )
        sources.append(source)
        whole = whole.over(preparation)
    if missing := [FLAGS[name] for name in _needed(data, whole) if getattr(whole, name) is None]:
        raise ValueError(
            f"give {', '.join(missing)}: how images were prepared for these networks is not recorded anywhere (such "
            "as --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225; 0.5 and 0.5 for networks that Amalgam trained)"
        )
    values = {name: value for name, value in asdict(whole).items() if value is not None}
    return DataSpec(**{**data.model_dump(), **values}), f"images: {whole} ({', '.join(dict.fromkeys(sources))})"


def recorded_in(folder: Path) -> Preparation | None:
    """What the records of a folder of Amalgam's say; None if it has none."""
    for file in (folder / name for name in RECORDS if (folder / name).is_file()):
        for spec in _specs(read_object(file)):
            values = {name: _value(spec.get(name)) for name in FLAGS}
            if _is_of_pictures(spec["name"]):
                values["image_size"] = values["image_size"] or FOLDER_IMAGE_SIZE
            return Preparation(**values)
    return None


def configured(model: str, data: DataSpec) -> Preparation | None:
    """What a library's configuration of an architecture says about such data; None if it says nothing."""
    library, _, name = model.partition(":")
    read = {"timm": _timm, "torchvision": _torchvision, "open_clip": _open_clip}.get(library)
    try:
        found = read(name) if read else None
    except (ImportError, ValueError, KeyError, RuntimeError, AttributeError):
        return None  # building it will say what is wrong with the name, or which package is not installed
    return _applicable(data, *found) if found else None


def _needed(data: DataSpec, whole: Preparation) -> list[str]:
    """What must be known: everything for pictures in files, the scale of pixels for sets of one size."""
    if _is_of_pictures(data.name):
        return list(FLAGS)
    return ["mean", "std", *(["interpolation"] if whole.image_size else [])]


def _is_of_pictures(data: str) -> bool:
    return data.partition(":")[0] in KINDS and not data.startswith("npz:")


def _applicable(data: DataSpec, preparation: Preparation, fixes_size: bool) -> Preparation:
    """What a configuration says that applies to the data: sets in memory keep their size, and are not cropped."""
    if data.name in KNOWN and isinstance(preparation.mean, tuple) and len(preparation.mean) != data.in_shape[0]:
        preparation = replace(preparation, mean=None, std=None)
    if _is_of_pictures(data.name):
        return preparation
    without = {"crop": None} if fixes_size else {"crop": None, "image_size": None, "interpolation": None}
    return replace(preparation, **without)


def _timm(name: str) -> tuple[Preparation, bool] | None:
    import timm  # takes seconds to import

    known = timm.get_pretrained_cfg(name)
    if known is None:
        return None
    config = known.to_dict()
    how = config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else None
    size = config["input_size"][1]
    crop = config["crop_pct"] if config.get("crop_mode") == "center" else None  # what is not cropped is asked for
    preparation = Preparation(size, tuple(config["mean"]), tuple(config["std"]), how, crop)
    return preparation, bool(config.get("fixed_input_size"))


def _torchvision(name: str) -> tuple[Preparation, bool]:
    from torchvision import models  # takes a second to import

    shown = models.get_model_weights(name).DEFAULT.transforms()
    (size,), (side,) = shown.crop_size, shown.resize_size
    mean, std = tuple(shown.mean), tuple(shown.std)
    return Preparation(size, mean, std, shown.interpolation.value, size / side), name.startswith("vit")


def _open_clip(name: str) -> tuple[Preparation, bool]:
    import open_clip  # takes seconds to import

    size = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    tags = open_clip.list_pretrained_tags_by_model(name)
    found = {_clip_values(open_clip.pretrained.get_pretrained_cfg(name, tag)) for tag in tags}
    mean, std, how, crop = found.pop() if len(found) == 1 else (None, None, None, None)
    return Preparation(size if isinstance(size, int) else size[0], mean, std, how, crop), True


def _clip_values(tag: dict[str, Any]) -> tuple[Any, Any, Any, float | None]:
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    mean, std = tag.get("mean") or OPENAI_DATASET_MEAN, tag.get("std") or OPENAI_DATASET_STD
    how = tag.get("interpolation") or "bicubic"
    crop = 1.0 if tag.get("resize_mode", "shortest") == "shortest" else None  # squashed images are not cropped
    return tuple(mean), tuple(std), how if how in ("bilinear", "bicubic") else None, crop


def _specs(value: Any) -> Iterator[dict[str, Any]]:
    """Every description of data in a record."""
    if isinstance(value, dict):
        if value.get("class") == "DataSpec":
            yield value
        for inner in value.values():
            yield from _specs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _specs(inner)


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _text(value: Any) -> str:
    return ",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)

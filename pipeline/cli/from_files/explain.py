"""The flags of `amalgam explain`: everything that can be refused without torch is refused first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from amalgam.pipeline.console import say
from amalgam.pipeline.reports.explanation.request import ExplainRequest
from amalgam.tasks.clip.prompts import checked_names, templates_of
from amalgam.tasks.data.catalogue import DataSpec, check


def explain(
    before: Annotated[Path, Argument(help="Folder of the classifier before fine-tuning.")],
    after: Annotated[list[Path], Argument(help="Folder of the fine-tuned classifier, or of several to compare.")],
    sae: Annotated[Path, Option(help="Folder of a sparse autoencoder of the original features.")],
    data: Annotated[list[str], Option(help="Images: imagefolder:PATH, npz:PATH, ..., or NAME=imagefolder:PATH.")],
    out: Annotated[Path, Option(help="New folder for the page and its tables.")],
    backbone: Annotated[Path | None, Option(help="Folder of the original CLIP, to name latents.")] = None,
    words: Annotated[str | None, Option(help="Words for latents, such as dog,red. (default: the classes)")] = None,
    template: Annotated[list[str] | None, Option(help="Prompt template for words. (default: the classifier's)")] = None,
    labels: Annotated[Path | None, Option(help="Your own labels of latents: the labels.csv of an explanation.")] = None,
    new_latents: Annotated[
        bool | None, Option(help="Train a second autoencoder to find new latents. (default: up to 4096 latents)")
    ] = None,
    name_error: Annotated[float, Option(help="Largest share of names that may be wrong.")] = 0.1,
    top: Annotated[int, Option(min=1, help="Most activating images kept for each latent.")] = 16,
    batch_size: Annotated[int, Option(min=1, help="Images per forward pass.")] = 256,
    title: Annotated[str, Option(help="Headline of the page.")] = "What fine-tuning changed",
    data_root: Annotated[Path | None, Option(envvar="AMALGAM_DATA", help="Folder of the data sets.")] = None,
    device: Annotated[str, Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Report which features fine-tuning added or removed in a CLIP classifier, and which predictions they changed."""
    if (words or template) and not backbone:
        raise ValueError("words need a text tower: give --backbone, the folder of the CLIP that both are from")
    named = checked_names([word.strip() for word in words.split(",")]) if words else ()
    domains = domains_of(data)
    for name in domains.values():
        check(DataSpec(name=name), data_root)
    sentences = templates_of(template) if template else ()
    if not 0 < name_error < 1:
        raise ValueError(f"--name-error must be between 0 and 1, got {name_error}")
    request = ExplainRequest(
        before=before,
        after=after[0],
        sae=sae,
        labels=labels,
        new_latents=new_latents,
        name_error=name_error,
        top_n=top,
        batch_size=batch_size,
        title=title,
        device=device,
    )
    from amalgam.pipeline.cli.from_files.explain_folders import (  # here, not above: it imports torch
        Words,
        explain_folders,
    )

    for line in explain_folders(request, after[1:], domains, Words(backbone, named, sentences), data_root, out):
        say(line)
    say(f"page: {out / 'explanation.html'}")


def domains_of(texts: Sequence[str]) -> Mapping[str, str]:
    """Names of data sets by domain; a set without a domain's name is called as itself."""
    found: dict[str, str] = {}
    for text in texts:
        start, equals, rest = text.partition("=")
        domain, name = (start, rest) if equals and ":" not in start else (text, text)
        if domain in found:
            raise ValueError(f"--data {domain} appears twice: name each domain, such as photo={name}")
        found[domain] = name
    return found

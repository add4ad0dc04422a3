"""Measure in at most eight minutes what waits for a GPU, and write gpu.md beside this file.

python -m benchmarks gpu                  # exit code 2 without a GPU; 1 if a bound fails or a part does not end
python -m benchmarks gpu sae_step blocks  # only these parts
python -m benchmarks gpu --wheels DIR     # where there is torch alone: other packages from these wheels
python -m benchmarks gpu --device cpu --tiny --out DIR   # small sizes, to see that everything runs

Weights and inputs are random and nothing is downloaded. Each part runs in a process of its own with a time limit, so
that one that fails or is slow leaves the others their time. The folder of wheels comes from

    pip download -r requirements.lock --no-deps --only-binary=:all: -d DIR    # with the platform of that machine

of which these are read besides torch: pydantic, numpy, scipy, POT, threadpoolctl, safetensors, open_clip_torch and what
that imports (torchvision, timm, ftfy, regex, huggingface_hub); neither Ray nor MLflow.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.measure import Measure, table

COMMAND = (sys.executable, "-m", "benchmarks.gpu")


@dataclass(frozen=True)
class Part:
    """Something to measure on a device, at full or small size."""

    about: str
    most_seconds: int
    """Its time limit; the limits of all parts and their start add up to eight minutes."""
    measure: Callable[[str, bool], Sequence[Measure]]


def sae_step(device: str, tiny: bool) -> Sequence[Measure]:
    """Steps of fine-tuning ViT-B/16, plain and penalised."""
    from benchmarks.methods import finetuning  # here and below, not above: what starts the parts needs no packages

    return finetuning.ratios(replace(finetuning.TINY if tiny else finetuning.GPU, device=device))


def eight_saes(device: str, tiny: bool) -> Sequence[Measure]:
    """Eight autoencoders of ViT-B/16's features in one pass, beside one."""
    from benchmarks.methods import sae

    size = sae.Size(16, 2, 256, batch_size=64, rounds=1) if tiny else sae.Size(512, 16, 1 << 17, batch_size=4096)
    return sae.together(replace(size, device=device))


def wide_sae(device: str, tiny: bool) -> Sequence[Measure]:
    """An autoencoder of ViT-L/14's features with 16,384 latents, ours beside the plain way."""
    from benchmarks.methods import sae

    if tiny:
        return sae.yardstick(sae.Size(16, 2, 256, batch_size=64, rounds=1, expansion=5.0, device=device))
    return sae.yardstick(sae.Size(768, 32, 1 << 16, batch_size=4096, rounds=3, expansion=16384 / 768, device=device))


def fusion(device: str, tiny: bool) -> Sequence[Measure]:
    """Matching and merging a pair of ResNet18 on the device and on the CPU, and the objectives reached."""
    from benchmarks.methods import fusion as pairs

    matchings: dict[str, list[pairs.Matching]] = {"cpu": [], device: []}
    width = 0.125 if tiny else 1.0
    measures = [
        replace(measure, what=f"{place}: {measure.what}")
        for place, found in matchings.items()
        for measure in pairs.fused(width, place, found)
    ]
    reached = [[matching.objective[-1] for matching in found] for found in matchings.values()]
    apart = max(abs(other - own) / max(own, 1e-12) for own, other in zip(reached[0], reached[-1], strict=True))
    return [*measures, Measure("distance of their objectives", 100 * apart, "%", at_most=1)]


def blocks(device: str, tiny: bool) -> Sequence[Measure]:
    """Fused networks of blocks beside dense ones and their members."""
    import torch

    from benchmarks.methods import fusing

    with torch.no_grad():
        return fusing.blocks(16, 4, device) if tiny else fusing.blocks(2048, 4096, device)


PARTS: Mapping[str, Part] = {
    "sae_step": Part("Step of fine-tuning ViT-B/16, batch 64 under bf16 autocast", 120, sae_step),
    "eight_saes": Part("Eight SAEs of width 512 in one pass, 2,048 latents each, batches of 4096", 60, eight_saes),
    "wide_sae": Part("SAE of width 768 with 16,384 latents, k 32, batches of 4096", 90, wide_sae),
    "fusion": Part("Fusing two ResNet18 at seven alphas", 120, fusion),
    "blocks": Part("Structured layers: MLPs of width 2048, batches of 4096", 60, blocks),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of the module docstring."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(PARTS)}; all without a name")
    parser.add_argument("--device", default="cuda", help="cuda, or with --tiny cpu")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs; bounds are not enforced")
    parser.add_argument("--wheels", type=Path, help="folder of .whl files, unpacked for these measurements alone")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of gpu.md")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {min(unknown)!r}: choose from {', '.join(PARTS)}")
    if problem := device_problem(asked.device, asked.tiny):
        parser.error(problem)
    if asked.wheels and not list(asked.wheels.glob("*.whl")):
        parser.error(f"{asked.wheels} has no .whl files: fill it as --help says")
    with tempfile.TemporaryDirectory() as site:
        if asked.wheels:
            unpack(asked.wheels, Path(site))
        path = os.pathsep.join(filter(None, (site, os.environ.get("PYTHONPATH"))))
        found = {name: outcome(name, asked.device, asked.tiny, path) for name in asked.parts or PARTS}
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "gpu.md").write_text(page(found, asked.device))
    whole = all(not isinstance(measures, str) for measures in found.values())
    holds = all(measure.holds for measures in found.values() if not isinstance(measures, str) for measure in measures)
    return 0 if whole and (asked.tiny or holds) else 1


def device_problem(device: str, tiny: bool) -> str | None:
    """Why nothing can be measured on that device, in one sentence; None if it can."""
    import torch

    if device == "cpu":
        return None if tiny else "a CPU would take hours: add --tiny to see that everything runs, or measure on a GPU"
    if not torch.cuda.is_available():
        return "torch finds no GPU here: run this where there is one, or try everything with --device cpu --tiny"
    return None


def unpack(wheels: Path, site: Path) -> None:
    """Install the wheels of a folder into another, with nothing downloaded."""
    install = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile")
    subprocess.run([*install, "--target", site, *sorted(wheels.glob("*.whl"))], check=True)


def outcome(name: str, device: str, tiny: bool, path: str) -> list[Measure] | str:
    """What a part measured, or why it did not end."""
    print(f"{name} ...", flush=True)
    command, limit = [*COMMAND, name, device, str(int(tiny))], PARTS[name].most_seconds
    environment = {**os.environ, "PYTHONPATH": path}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment, check=True)
    except subprocess.TimeoutExpired:
        return f"it did not end within {limit} s"
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        return f"it failed: {error.stderr.strip().splitlines()[-1]}"
    return [Measure.from_json(fields) for fields in json.loads(done.stdout)]


def page(found: Mapping[str, Sequence[Measure] | str], device: str) -> str:
    """The outcomes as Markdown."""
    facts = ", ".join(f"{name} {value}" for name, value in {**machine(), "device": device_name(device)}.items())
    lines = ["# Speed on a GPU", "", f"Written by `python -m benchmarks gpu`. Machine: {facts}."]
    for name, measures in found.items():
        lines += ["", f"## {name}", "", f"{PARTS[name].about}.", ""]
        lines += [f"Not measured: {measures}."] if isinstance(measures, str) else table(measures)
    return "\n".join(lines) + "\n"


def device_name(device: str) -> str:
    """What the device calls itself."""
    import torch

    return str(torch.cuda.get_device_name()) if device == "cuda" else device


def measured(name: str, device: str, tiny: bool) -> list[Measure]:
    """What a part measures in this process, with the most memory that it took of a GPU."""
    import torch

    measures = list(PARTS[name].measure(device, tiny))
    if device == "cuda":
        measures.append(Measure("peak of GPU memory", torch.cuda.max_memory_allocated() / 2**30, "GiB"))
    return measures


if __name__ == "__main__":
    print(json.dumps([asdict(found) for found in measured(sys.argv[1], sys.argv[2], sys.argv[3] == "1")]))

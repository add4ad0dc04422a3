r"""Fine-tune a CLIP on a folder of images, plainly and with SAE-FT, and print the results on its test images.

    python examples/sae_ft_of_an_image_folder.py pictures --architecture ViT-B-32
    python examples/sae_ft_of_an_image_folder.py pictures --architecture ViT-B-32 --checkpoint weights.safetensors \
        --mean 0.48 0.46 0.41 --std 0.27 0.26 0.28

The folder has train/CLASS/picture.jpg and test/CLASS/picture.jpg; the names of the classes make the zero-shot head. The
weights must be on this machine; if not, the error says how to download them. Results are cached
in --root, as by `amalgam run`.
"""

import argparse
from pathlib import Path

import pandas as pd

from amalgam.pipeline.engine.data_digests import with_data
from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.experiments.clip.finetune import clip_finetune


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    """Print and return the table of results, a row per network; `id` is the folder's own test images."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--checkpoint", help="file of weights; default: OpenAI's, as open_clip keeps them")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--mean", type=float, nargs="+", default=[], help="of pixels, as the weights were trained")
    parser.add_argument("--std", type=float, nargs="+", default=[], help="both are needed with --checkpoint alone")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--strengths", type=float, nargs="+", default=[7.0, 70.0, 700.0])
    parser.add_argument("--root", type=Path, default=Path("runs"))
    flags = parser.parse_args(arguments)

    data_root = flags.pictures.resolve().parent
    report = clip_finetune(
        data_root=data_root,
        suite=f"imagefolder:{flags.pictures.name}",
        architecture=flags.architecture,
        checkpoint=flags.checkpoint,
        image_size=flags.image_size,
        mean=tuple(flags.mean),
        std=tuple(flags.std),
        methods=("ft", "sae-mask"),
        strengths=tuple(flags.strengths),
        alphas=(0.5, 1.0),
        epochs=flags.epochs,
        validation_share=0.2,
        precision="fp32",
    )
    report = with_data(report, data_root)  # changed images are fine-tuned on anew
    run([report], flags.root, Local(), data_root=data_root)
    folder = report.path(flags.root)
    table = pd.read_parquet(folder / "robustness.parquet")
    table = table[["method", "strength", "alpha", *table.filter(regex="^id/")]]
    print(table.round(3).to_string(index=False))
    print(f"page: {folder / 'robustness.html'}")
    return table


if __name__ == "__main__":
    main()

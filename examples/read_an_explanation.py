"""Read the tables that `amalgam explain` writes: which latents changed, and which predictions with them.

    amalgam explain BEFORE AFTER --sae SAE --data imagefolder:pictures --out explained
    python examples/read_an_explanation.py explained

The tables are Parquet files of one row per latent and model (`latents`), per latent and group of images in which it
changed (`changes`), and per changed prediction (`flips`).
"""

import argparse
import json
from pathlib import Path

import pandas as pd

FALSE_DISCOVERY_RATE = 0.05  # expected fraction of the listed latents that changed by chance alone


def changed_latents(folder: Path, most: int) -> pd.DataFrame:
    """The latents whose activity changed significantly over all images, by their effect on the true class's logit.

    With its firing rate before and after fine-tuning and, if the explanation has names, its name.
    """
    changes = pd.read_parquet(folder / "changes.parquet").query(f"scope == 'all' and q < {FALSE_DISCOVERY_RATE}")
    latents = pd.read_parquet(folder / "latents.parquet")
    rates = latents.pivot(index="latent", columns="model", values="firing_rate").add_prefix("rate_")
    table = changes.set_index("latent")[["added", "removed", "effect"]].join(rates)
    if "name" in latents:
        table = table.join(latents.drop_duplicates("latent").set_index("latent")["name"])
    return table.sort_values("effect", key=abs, ascending=False).head(most)


def changed_predictions(folder: Path) -> pd.DataFrame:
    """Changed predictions by domain and kind: how many, and how many of them the latents explain."""
    flips = pd.read_parquet(folder / "flips.parquet")
    return flips.groupby(["domain", "kind"]).agg(predictions=("example_id", "size"), explained=("explained", "sum"))


def main(arguments: list[str] | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Print and return both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=10, help="latents that are listed")
    flags = parser.parse_args(arguments)
    short = json.loads((flags.folder / "explanation.json").read_text())
    latents, predictions = changed_latents(flags.folder, flags.most), changed_predictions(flags.folder)
    print(f"{short['title']}: accuracy by model and domain")
    print(pd.DataFrame(short["accuracy"]).round(4).to_string())
    print(f"\nlatents that changed most\n{latents.round(4).to_string()}")
    print(f"\nchanged predictions\n{predictions.to_string()}")
    return latents, predictions


if __name__ == "__main__":
    main()

"""Train two small timm networks, each mostly on half of the digits, and fuse them at several sizes.

    python examples/fuse_two_timm_networks.py
    python examples/fuse_two_timm_networks.py --model resnet18 --epochs 20

Nothing is downloaded: the images are scikit-learn's handwritten digits and the networks start from random weights. For
your own networks only the last call is needed: `fuse(members, PartialOT(alpha=...), example=..., calibration=...)`.
"""

import argparse

import timm
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from amalgam import PartialOT, fuse

SIDE = 32  # pixels; a ResNet downsamples them to a feature map
FOREIGN = 20  # a member sees one in 20 images of the other member's classes


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train images (n, 1, 32, 32) and labels (n,), then test images and labels."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    images = nn.functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    labels = torch.tensor(found.target)
    train, test = train_test_split(range(len(labels)), test_size=0.3, random_state=0, stratify=found.target)
    return images[train], labels[train], images[test], labels[test]


def trained(model: str, images: Tensor, labels: Tensor, epochs: int, seed: int) -> nn.Module:
    """A network of that name, trained by AdamW from random weights."""
    torch.manual_seed(seed)
    network = timm.create_model(model, pretrained=False, num_classes=10, in_chans=1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is that of their class."""
    return (logits.argmax(1) == labels).double().mean().item()


@torch.no_grad()
def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Print a table of accuracies and sizes; returns the accuracies by name."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="test_resnet", help="name of a convolutional timm network")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.0, 0.25, 0.5, 1.0])
    flags = parser.parse_args(arguments)

    images, labels, test_images, test_labels = digits()
    members = []
    for member, at_home in enumerate((labels < 5, labels >= 5)):
        seen = at_home | (torch.arange(len(labels)) % FOREIGN == 0)
        with torch.enable_grad():
            members.append(trained(flags.model, images[seen], labels[seen], flags.epochs, seed=member))
    outputs = [member(test_images) for member in members]
    accuracies = {f"member {number}": accuracy(logits, test_labels) for number, logits in enumerate(outputs)}
    accuracies["ensemble"] = accuracy(torch.stack(outputs).mean(0), test_labels)
    sizes = dict.fromkeys(accuracies, 1.0) | {"ensemble": float(len(members))}

    one = sum(parameter.numel() for parameter in members[0].parameters())
    for alpha in flags.alphas:
        fused = fuse(members, PartialOT(alpha=alpha), example=images[:2], calibration=images[:512].split(128))
        name = f"fused, alpha {alpha:g}"
        accuracies[name] = accuracy(fused.eval()(test_images), test_labels)
        sizes[name] = sum(int(parameter.count_nonzero()) for parameter in fused.parameters()) / one

    print(f"{'network':20} accuracy  nonzero parameters")
    for name, value in accuracies.items():
        print(f"{name:20} {value:8.1%}  {sizes[name]:.2f}x")
    return accuracies


if __name__ == "__main__":
    torch.set_num_threads(1)  # networks this small run no faster on several threads
    main()

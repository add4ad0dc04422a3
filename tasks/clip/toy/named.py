"""The small worlds that have a name, as data. Importable without torch."""

from amalgam.tasks.clip.class_names import CIFAR10_NAMES, DIGITS, EUROSAT_NAMES, GTSRB_NAMES, TINY_IMAGENET_NAMES
from amalgam.tasks.clip.toy.captions import PHOTO_CAPTIONS
from amalgam.tasks.clip.toy.networks import pretrain_config, small_clip
from amalgam.tasks.clip.toy.worlds import PairWorld, PhotoSet, PhotoWorld, World
from amalgam.tasks.data.catalogue import DataSpec

_TEXTURES = "banded blotchy braided bubbly bumpy chequered cobwebbed cracked crosshatched crystalline"
CIFAR10 = PhotoSet(data=DataSpec(name="cifar10"), class_names=CIFAR10_NAMES)
TINY_IMAGENET = PhotoSet(data=DataSpec(name="npz:tiny-imagenet-32"), class_names=TINY_IMAGENET_NAMES)
EUROSAT = PhotoSet(data=DataSpec(name="npz:EuroSAT.npz"), class_names=EUROSAT_NAMES, most_tests=2000)
GTSRB = PhotoSet(data=DataSpec(name="npz:GTSRB.npz"), class_names=GTSRB_NAMES, most_tests=2580)
DTD10 = PhotoSet(data=DataSpec(name="npz:DTD10.npz"), class_names=tuple(_TEXTURES.split()), most_tests=1200)
MNIST = PhotoSet(data=DataSpec(name="mnist", image_size=32), class_names=DIGITS)


def _real(tuned: PhotoSet) -> PhotoWorld:
    """Pictures of six sets of 32 pixels, one of which is fine-tuned on."""
    sets = (tuned, *(each for each in (CIFAR10, TINY_IMAGENET, EUROSAT, GTSRB, DTD10, MNIST) if each is not tuned))
    names = sum((each.class_names for each in sets), ())
    captions = PHOTO_CAPTIONS.model_copy(update={"class_names": names})
    return PhotoWorld(
        sets=sets,
        captions=captions,
        wrong_captions=0.1,
        clip=small_clip(size=32, patch=8, width=128, layers=3, embed_dim=64, captions=captions),
        pretraining=pretrain_config(epochs=10, images_per_epoch=25_600, batch_size=256),
    )


WORLDS: dict[str, World] = {
    "digits": PairWorld(
        glyphs=DataSpec(name="digits"),
        size=20,
        clip=small_clip(size=20, patch=10, width=128, layers=2, embed_dim=64),
        pretraining=pretrain_config(epochs=10, images_per_epoch=10_240, batch_size=128),
    ),
    "mnist": PairWorld(
        glyphs=DataSpec(name="mnist"),
        size=28,
        margin=1 / 7,
        clip=small_clip(size=28, patch=14, width=128, layers=3, embed_dim=64),
        pretraining=pretrain_config(epochs=6, images_per_epoch=35_072, batch_size=128),
    ),
    "photos": PhotoWorld(
        sets=(CIFAR10, TINY_IMAGENET),
        wrong_captions=0.25,
        clip=small_clip(size=32, patch=4, width=256, layers=8, embed_dim=256, text_layers=3, captions=PHOTO_CAPTIONS),
        pretraining=pretrain_config(epochs=30, images_per_epoch=204_800, batch_size=1024, precision="bf16"),
    ),
    **{f"real-{photos.name.lower()}": _real(photos) for photos in (CIFAR10, EUROSAT, GTSRB, DTD10, MNIST)},
}
"""Worlds by name: a demonstration of a minute on one core, the full size of it, photos for a GPU, and real ones of six
sets at a size for CPUs, called by the set that is fine-tuned on."""

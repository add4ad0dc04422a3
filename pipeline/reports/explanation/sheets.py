"""Small pictures on shared sheets, so that a page of thousands opens at once: a browser decodes the sheets it shows."""

import base64
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image
from torch import Tensor

LARGEST = 64  # pixels; the longer side of a picture in the page
PER_SIDE = 16  # pictures along a side of a sheet
LOSSLESS = 32  # pixels; pictures up to this size are kept as they are, larger ones are stored as JPEG


def sheets(pictures: Iterable[Tensor], size: int) -> list[str]:
    """Sheets of PER_SIDE x PER_SIDE tiles of `size` pixels, row by row, as data URLs.

    Pictures are uint8 (channels, height, width) and are shrunk into their tile if they are larger.
    """
    found, sheet = list[str](), Image.new("RGB", (0, 0))
    for number, pixels in enumerate(pictures):
        place = number % PER_SIDE**2
        if place == 0:
            found += [_url(sheet)] if number else []
            sheet = Image.new("RGB", (PER_SIDE * size, PER_SIDE * size), "#eee")
        tile = picture(pixels, size)
        row, column = divmod(place, PER_SIDE)
        sheet.paste(tile, (column * size + (size - tile.width) // 2, row * size + (size - tile.height) // 2))
    return [*found, _url(sheet)] if sheet.width else found


def picture(pixels: Tensor, size: int = LARGEST) -> Image.Image:
    """An image, uint8 (channels, height, width), shrunk if it is larger."""
    array = pixels.cpu().movedim(0, -1).numpy()
    image = Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 else array)).convert("RGB")
    image.thumbnail((size, size))
    return image


def _url(sheet: Image.Image) -> str:
    stored, kind = io.BytesIO(), "png" if sheet.width <= PER_SIDE * LOSSLESS else "jpeg"
    sheet.save(stored, format=kind, optimize=True, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(stored.getvalue()).decode()}"

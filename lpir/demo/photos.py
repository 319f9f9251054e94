"""Twenty labelled ImageNet photos from the package foolbox, ready for a network's input."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lpir.demo.packages import files_of
from lpir.errors import FileError
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]

# of ImageNet's training pictures, red green blue; every torchvision network expects them
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


@record
class Photo:
    """A picture file and its ImageNet class, 0 to 999."""

    path: Path
    label: int

    def input(self, size: int = 224) -> Array:
        """float32 [1, 3, size, size], normalized."""
        return read_image(self.path, size)


def photos() -> list[Photo]:
    """The 20 photos, in order. Raises FileError when the package foolbox is not installed."""
    found = []
    for path in sorted(files_of("foolbox")):
        match = re.fullmatch(r"imagenet_\d+_(\d+)\.jpg", path.name)
        if match and path.is_file():
            found.append(Photo(path, int(match.group(1))))
    if not found:
        raise FileError("package foolbox is installed but has no imagenet photos; version 3.3.4 has them")
    return found


def read_image(path: str | Path, size: int = 224) -> Array:
    """A picture file as float32 [1, 3, size, size], RGB, normalized: center square, bilinear. Raises FileError."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise FileError("reading pictures needs pillow; pip install 'lpir[demo]' brings it") from None
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise FileError(f"{path}: not a readable picture: {error}") from error
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    if picture.size != (size, size):
        picture = picture.crop((left, top, left + side, top + side))
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return normalize(np.asarray(picture, np.float32) / np.float32(255))


def normalize(picture: Array) -> Array:
    """[H, W, 3] in 0..1 -> float32 [1, 3, H, W] with ImageNet's mean and deviation."""
    return np.ascontiguousarray(((picture - MEAN) / DEVIATION).transpose(2, 0, 1)[None])


@cache
def class_names() -> tuple[str, ...]:
    """The 1000 ImageNet class names, by label."""
    text = resources.files("lpir.demo").joinpath("imagenet_classes.txt").read_text("utf-8")
    return tuple(text.splitlines())


def top(logits: Array, count: int = 5) -> list[tuple[str, float]]:
    """The most likely classes of one [1000] or [1, 1000] logit vector, with probabilities."""
    flat = np.asarray(logits, np.float64).reshape(-1)
    share = np.exp(flat - flat.max())
    share /= share.sum()
    return [(class_names()[i], float(share[i])) for i in np.argsort(-share)[:count]]


def correct(outputs: Iterable[Array]) -> int:
    """How many of the outputs for `photos()`, in order, have the right class on top."""
    return sum(int(np.argmax(y)) == p.label for y, p in zip(outputs, photos(), strict=True))

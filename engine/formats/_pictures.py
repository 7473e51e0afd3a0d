"""Images as records. Imports numpy and Pillow: to be imported inside functions only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from ._protocol import Extent, RawRecords

#: Formats whose decoders need no other program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")


def read_folder(path: Path, shape: tuple[int, ...]) -> RawRecords:
    """Every image of every class folder, in the order of their names.

    Raises:
        InputError: The task has no images, the folder no class folders, or a file is not an image of the task's size.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        message = f"{path}: images need an input of [1 or 3, height, width], the task has {list(shape)}"
        raise InputError.of(message, "correct spec.task.input")
    folders = [entry for entry in _entries(path) if entry.is_dir()]
    if not folders:
        raise InputError.of(
            f"{path}: no folders in it", "put the images of each class into a folder of that class's name"
        )
    files = [(image, label) for label, folder in enumerate(folders) for image in _entries(folder)]
    pixels = [_pixels(image, shape) for image, _ in files]
    x = np.stack(pixels) if pixels else np.zeros((0, *shape), dtype=np.uint8)
    y = np.array([label for _, label in files], dtype=np.int64)
    return RawRecords(x, y, Extent(0.0, 255.0), tuple(folder.name for folder in folders))


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, by name; hidden files (.DS_Store) are no records."""
    try:
        return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise InputError.of(f"{folder}: not a folder that can be read ({error.strerror})", "check the path") from error


def _pixels(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """One image as `shape` bytes, grey or colour as the task wants it."""
    depth, height, width = shape
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.size == (width, height):
                return _array(image, depth)
            size = image.size
    except Exception as error:  # a hostile image may raise anything; whatever it is, the file is refused
        raise InputError.of(f"{path}: not an image that can be read ({error})", "take it out of the folder") from error
    message = f"{path}: {size[0]} pixels wide and {size[1]} high, the task expects {width} and {height}"
    raise InputError.of(message, "resize it exactly as it was resized for training")


def _array(image: Image.Image, depth: int) -> NDArray[np.uint8]:
    """An opened image as `(depth, height, width)`.

    Raises:
        ValueError: Its pixels have more than eight bits, or it is partly transparent.
    """
    if image.mode not in ("1", "L", "P", "RGB", "YCbCr", "CMYK"):
        raise ValueError(f"mode {image.mode}, expected 8 bits grey or colour without transparency")
    pixels = np.asarray(image.convert("L" if depth == 1 else "RGB"), dtype=np.uint8)
    return pixels[None] if depth == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))

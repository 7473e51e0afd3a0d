"""NumPy arrays out of files, never with pickle. Imports numpy: to be imported inside functions only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ._protocol import Extent, RawRecords

_SAVE = "write it with numpy.savez('members.npz', x=x, y=y)"


def from_arrays(x: NDArray[Any], y: NDArray[Any], persons: NDArray[Any] | None = None) -> RawRecords:
    """Arrays as records. Bytes in three dimensions are an image's pixels, 0 to 255; every other number is itself."""
    pixels = x.dtype == np.uint8 and x.ndim == 4
    return RawRecords(x, y, extent=Extent(0.0, 255.0) if pixels else None, persons=persons)


def load_archive(path: Path) -> RawRecords:
    """The arrays `x` and `y` of a .npz file, and `person` where it has one.

    Raises:
        InputError: It is no such file.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in ("x", "y") if name not in archive.files]
            if missing:
                raise InputError.of(f"{path}: expected arrays x and y, found {sorted(archive.files)}", _SAVE)
            persons = archive["person"] if "person" in archive.files else None
            return RawRecords(archive["x"], archive["y"], persons=persons)
    except InputError:
        raise
    except Exception as error:  # a damaged archive may raise anything; whatever it is, the file is refused
        raise _refusal(path, error) from error


def load_array(path: Path) -> NDArray[Any]:
    """The array of a .npy file, mapped into memory; writing to it would not reach the file.

    Raises:
        InputError: It is no such file.
    """
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="c")
    except Exception as error:  # as above
        raise _refusal(path, error) from error
    return array


def _refusal(path: Path, error: Exception) -> InputError:
    """Why a NumPy file could not be read."""
    if "allow_pickle" in str(error) or "Python objects" in str(error):
        return InputError.of(
            f"{path}: it holds Python objects, which are never loaded", "save numbers: x.astype('float32')"
        )
    return InputError.of(f"{path}: not a NumPy file that can be read ({error})", _SAVE)

"""Checks that several architectures share, one line each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageSize:
    """An image's size. Attributes: channels 1 (grey) or 3 (colour); height and width in pixels."""

    channels: int
    height: int
    width: int


def positive(name: str, values: tuple[int, ...]) -> None:
    """Refuse numbers below 1.

    Raises:
        ValueError: One is.
    """
    if any(value < 1 for value in values):
        raise ValueError(f"expected whole numbers of at least 1 in {name}, found {list(values)}")


def fraction(name: str, value: float) -> None:
    """Refuse what is not in [0, 1).

    Raises:
        ValueError: It is not.
    """
    if not 0 <= value < 1:
        raise ValueError(f"expected 0 <= {name}={value} < 1")


def image(name: str, shape: tuple[int, ...]) -> ImageSize:
    """A record's shape as that of an image.

    Raises:
        ValueError: It is none.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(
            f"{name} reads images of shape [1 or 3, height, width], these records have {list(shape)}: "
            "use mlp or linear, or a factory"
        )
    return ImageSize(*shape)

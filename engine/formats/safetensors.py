"""Safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..errors import InputError

if TYPE_CHECKING:
    import torch


class Safetensors:
    """Safetensors: tensors by name, nothing that could run."""

    holds: ClassVar[str] = "model"
    suffixes: ClassVar[tuple[str, ...]] = (".safetensors",)

    def read(self, content: bytes, path: Path) -> Mapping[str, torch.Tensor]:
        """The tensors by name.

        Raises:
            InputError: It is not a safetensors file, or holds no tensor.
        """
        from safetensors.torch import load

        try:
            tensors: Mapping[str, torch.Tensor] = load(content)
        except Exception as error:  # a hostile header may raise anything; whatever it is, the file is refused
            # Asked only now: the length that a safetensors file starts with may look like a pickle.
            if content.startswith((b"PK\x03\x04", b"\x80")):
                raise InputError.of(f"{path}: this is a PyTorch file under another name", "rename it to .pt") from error
            hint = (
                "copy it again, or write it with safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
            )
            raise InputError.of(f"{path}: not a safetensors file that can be read ({error})", hint) from error
        if not tensors:
            raise InputError.of(f"{path}: the file holds no tensor", "save the model's state_dict")
        return tensors

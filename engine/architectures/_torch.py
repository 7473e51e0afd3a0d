"""Modules that several architectures are made of. Imports torch: to be imported inside functions only."""

from __future__ import annotations

from math import gcd

import torch
from torch import nn

#: At most this many groups of channels are normalised apart (Wu & He 2018, arXiv 1803.08494).
_GROUPS = 8


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with up to eight groups, whatever divides the channels, of two channels or more."""
    groups = gcd(channels, _GROUPS)
    return nn.GroupNorm(groups if channels // groups >= 2 else max(1, groups // 2), channels)


def normalisation(channels: int, wanted: bool) -> nn.Module:
    """Group normalisation, or nothing."""
    return group_norm(channels) if wanted else nn.Identity()


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut. Nothing is done in place: per-sample gradients need each input."""

    def __init__(self, depth: int, channels: int, stride: int, normed: bool) -> None:
        super().__init__()
        bias = not normed
        self.conv1 = nn.Conv2d(depth, channels, kernel_size=3, stride=stride, padding=1, bias=bias)
        self.norm1 = normalisation(channels, normed)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=bias)
        self.norm2 = normalisation(channels, normed)
        self.relu2 = nn.ReLU()
        same = depth == channels and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(depth, channels, kernel_size=1, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Args: x `(n, depth, h, w)`. Returns: `(n, channels, h / stride, w / stride)`, rounded up."""
        inner = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        answer: torch.Tensor = self.relu2(inner + self.shortcut(x))
        return answer

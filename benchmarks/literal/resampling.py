"""Between frames and tokens, and between token grids. Images are ``(B, C, h, w)``, tokens ``(B, h * w, C)``."""

import torch
from einops import rearrange
from torch import Tensor, nn

from datlstm.models.frames import Grid


class PatchEmbed(nn.Module):
    """Turn frames into tokens by a convolution whose stride is its kernel, then layer norm."""

    def __init__(self, frame_channels: int, patch: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(frame_channels, channels, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(channels)

    def forward(self, frame: Tensor) -> Tensor:
        """Map ``(B, c, H, W)`` to tokens."""
        return self.norm(self.proj(frame).flatten(2).transpose(1, 2))


class PatchMerging(nn.Module):
    """Halve the grid and double the channels."""

    def __init__(self, grid: Grid, channels: int) -> None:
        super().__init__()
        self.grid = grid
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(B, h * w, C)`` to ``(B, h/2 * w/2, 2C)``."""
        batch, _, channels = tokens.shape
        x = tokens.view(batch, *self.grid, channels)
        corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        x = torch.cat(corners, -1).view(batch, -1, 4 * channels)
        return self.reduction(self.norm(x))


class PatchExpanding(nn.Module):
    """Double the grid and halve the channels."""

    def __init__(self, grid: Grid, channels: int) -> None:
        super().__init__()
        self.grid = grid
        self.expand = nn.Linear(channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(channels // 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(B, h * w, C)`` to ``(B, 2h * 2w, C/2)``."""
        x = rearrange(self.expand(tokens), "b (h w) c -> b h w c", h=self.grid[0])
        x = rearrange(x, "b h w (p1 p2 c) -> b (h p1) (w p2) c", p1=2, p2=2)
        return self.norm(x.flatten(1, 2))


class PatchInflate(nn.Module):
    """Turn tokens into a frame by a transposed convolution."""

    def __init__(self, grid: Grid, patch: int, channels: int, frame_channels: int) -> None:
        super().__init__()
        self.grid = grid
        beyond = patch - 1
        self.Conv = nn.ConvTranspose2d(channels, frame_channels, patch + beyond, patch, beyond, output_padding=beyond)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens to ``(B, c, H, W)``."""
        batch, _, channels = tokens.shape
        image = tokens.view(batch, *self.grid, channels).permute(0, 3, 1, 2)
        return self.Conv(image)

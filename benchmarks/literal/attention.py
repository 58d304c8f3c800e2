"""The attentions of DatLSTM and SwinLSTM-D, each from tokens ``(B, h * w, C)`` of a grid to tokens."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from datlstm.models.frames import Grid

OFFSET_RANGE = 2


def relative_position_index(window: int) -> Tensor:
    """Return ``(window**2, window**2)`` rows of the bias table."""
    coordinates = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    relative = (coordinates[:, :, None] - coordinates[:, None, :]).permute(1, 2, 0) + window - 1
    return relative[..., 0] * (2 * window - 1) + relative[..., 1]


class ImageWindowAttention(nn.Module):
    """DatLSTM's attention of even blocks, inside windows of an image."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window, self.scale = heads, window, (channels // heads) ** -0.5
        self.proj_qkv = nn.Linear(channels, 3 * channels)
        self.proj_out = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.01)
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Map tokens to the same shape."""
        image = rearrange(tokens, "b (h w) c -> b c h w", h=grid[0])
        rows, columns = grid[0] // self.window, grid[1] // self.window
        x = rearrange(image, "b c (r h) (s w) -> (b r s) (h w) c", r=rows, s=columns)
        q, k, v = torch.chunk(self.proj_qkv(x), 3, dim=2)
        q, k, v = (rearrange(part, "b l (n d) -> b n l d", n=self.heads) for part in (q * self.scale, k, v))
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        attention = F.softmax(torch.einsum("b n i d, b n j d -> b n i j", q, k) + bias.unsqueeze(0), dim=-1)
        x = torch.einsum("b n i j, b n j d -> b n i d", attention, v)
        x = self.proj_out(rearrange(x, "b n l d -> b l (n d)"))
        image = rearrange(x, "(b r s) (h w) c -> b c (r h) (s w)", r=rows, s=columns, h=self.window)
        return rearrange(image, "b c h w -> b (h w) c")


class ImageLayerNorm(nn.Module):
    """Layer norm over the channels of an image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image to the same shape."""
        return rearrange(self.norm(rearrange(image, "b c h w -> b h w c")), "b h w c -> b c h w")


class DeformableAttention(nn.Module):
    """DatLSTM's attention of odd blocks: every token to keys sampled where the queries around them point."""

    def __init__(self, grid: Grid, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.scale = heads, groups, (channels // heads) ** -0.5
        width = channels // groups
        self.conv_offset = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1, groups=width),
            ImageLayerNorm(width),
            nn.GELU(),
            nn.Conv2d(width, 2, kernel_size=1, bias=False),
        )
        self.proj_q = nn.Conv2d(channels, channels, kernel_size=1)
        self.proj_k = nn.Conv2d(channels, channels, kernel_size=1)
        self.proj_v = nn.Conv2d(channels, channels, kernel_size=1)
        self.proj_out = nn.Conv2d(channels, channels, kernel_size=1)
        self.rpe_table = nn.Parameter(torch.zeros(heads, 2 * grid[0] - 1, 2 * grid[1] - 1))
        nn.init.trunc_normal_(self.rpe_table, std=0.01)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Map tokens to the same shape."""
        image = rearrange(tokens, "b (h w) c -> b c h w", h=grid[0])
        batch, channels, height, width = image.shape
        q = self.proj_q(image)
        position = self._positions(q)
        keys = position.shape[1] * position.shape[2]
        images = image.reshape(batch * self.groups, -1, height, width)
        sampled = F.grid_sample(images, position[..., (1, 0)], mode="bilinear", align_corners=True)
        sampled = sampled.reshape(batch, channels, 1, keys)
        q = q.reshape(batch * self.heads, -1, height * width)
        k = self.proj_k(sampled).reshape(batch * self.heads, -1, keys)
        v = self.proj_v(sampled).reshape(batch * self.heads, -1, keys)
        attention = torch.einsum("b c m, b c n -> b m n", q, k) * self.scale
        attention = attention + self._relative_bias(position, grid)
        attention = F.softmax(attention, dim=2)
        out = torch.einsum("b m n, b c n -> b c m", attention, v)
        out = self.proj_out(out.reshape(batch, channels, height, width))
        return rearrange(out, "b c h w -> b (h w) c")

    def _positions(self, q: Tensor) -> Tensor:
        """Return key positions (y, x) ``(B * groups, hk, wk, 2)`` from the queries' image."""
        offset = self.conv_offset(rearrange(q, "b (g c) h w -> (b g) c h w", g=self.groups))
        rows, columns = offset.shape[2:]
        spacing = torch.tensor([1 / (rows - 1), 1 / (columns - 1)], device=q.device).reshape(1, 2, 1, 1)
        offset = rearrange(offset.tanh() * spacing * OFFSET_RANGE, "b p h w -> b h w p")
        axes = (torch.linspace(0.5, size - 0.5, size, device=q.device) / (size - 1) for size in (rows, columns))
        reference = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) * 2 - 1
        return offset + reference[None].expand(offset.shape[0], -1, -1, -1)

    def _relative_bias(self, position: Tensor, grid: Grid) -> Tensor:
        """Read ``(B * heads, h * w, keys)`` at the displacement of each key from each query."""
        count = position.shape[0]
        axes = (torch.linspace(-1, 1, size, device=position.device) for size in grid)
        query = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)[None].expand(count, -1, -1, -1)
        displacement = (query.reshape(count, -1, 1, 2) - position.reshape(count, 1, -1, 2)) * 0.5
        table = self.rpe_table[None].expand(count // self.groups, -1, -1, -1)
        table = table.reshape(count, -1, *self.rpe_table.shape[1:])
        bias = F.grid_sample(table, displacement[..., (1, 0)], mode="bilinear", align_corners=True)
        return bias.flatten(0, 1)


class ShiftedWindowAttention(nn.Module):
    """SwinLSTM-D's attention inside windows of tokens, in odd blocks shifted by half a window (Liu et al. 2021)."""

    relative_position_index: Tensor
    attn_mask: Tensor | None

    def __init__(self, grid: Grid, channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        if min(grid) <= window:
            window, shift = min(grid), 0
        self.heads, self.window, self.shift = heads, window, shift
        self.scale = (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        self.register_buffer("attn_mask", self._mask(grid) if shift else None, persistent=False)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Map tokens to the same shape."""
        x = rearrange(tokens, "b (h w) c -> b h w c", h=grid[0])
        if self.shift:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        x = self._attend(self._windows(x))
        rows, columns = grid[0] // self.window, grid[1] // self.window
        x = rearrange(x, "(b r s) (h w) c -> b (r h) (s w) c", r=rows, s=columns, h=self.window)
        if self.shift:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(1, 2))
        return rearrange(x, "b h w c -> b (h w) c")

    def _attend(self, x: Tensor) -> Tensor:
        """Map windows ``(B * windows, N, C)`` to the same shape."""
        count, size, channels = x.shape
        q, k, v = self.qkv(x).reshape(count, size, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attention = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(size, size, -1)
        attention = attention + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if self.attn_mask is not None:
            windows = self.attn_mask.shape[0]
            attention = attention.view(count // windows, windows, self.heads, size, size)
            attention = (attention + self.attn_mask.unsqueeze(1).unsqueeze(0)).view(-1, self.heads, size, size)
        x = (attention.softmax(dim=-1) @ v).transpose(1, 2).reshape(count, size, channels)
        return self.proj(x)

    def _windows(self, x: Tensor) -> Tensor:
        return rearrange(x, "b (r h) (s w) c -> (b r s) (h w) c", h=self.window, w=self.window)

    def _mask(self, grid: Grid) -> Tensor:
        """Return ``(windows, N, N)``: -100 between tokens that only the roll made neighbours."""
        label = torch.zeros(1, *grid, 1)
        cuts = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        for region, (rows, columns) in enumerate((rows, columns) for rows in cuts for columns in cuts):
            label[:, rows, columns] = region
        windows = self._windows(label).squeeze(-1)
        difference = windows.unsqueeze(1) - windows.unsqueeze(2)
        return difference.masked_fill(difference != 0, -100.0)

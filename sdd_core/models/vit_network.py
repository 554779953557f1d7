"""The modules of the vision transformer that `vit` describes.

Shapes: B images, T tokens (patches and the class token), D width, H heads, K = D / H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdd_core.models.vit import ViT


class AttentionProducts(nn.Module):
    """softmax(Q K^T / sqrt(K)) V; a module of its own so that its cost can be counted."""

    def forward(self, q_bhtk: Tensor, k_bhtk: Tensor, v_bhtk: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q_bhtk, k_bhtk, v_bhtk)

    def operations(self, q_bhtk: Tensor, output: Tensor) -> int:
        """Multiply-adds of Q K^T and of the weights with V: T products for each element of Q, twice."""
        return 2 * q_bhtk.numel() * q_bhtk.shape[2]


class Attention(nn.Module):
    """Multi-head self-attention: qkv without bias, no dropout on the attention weights."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.products = AttentionProducts()
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_btd: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x_btd).chunk(3, dim=2))
        mixed_btd = self.products(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.dropout(self.out(mixed_btd))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp), nn.GELU(), nn.Dropout(dropout), nn.Linear(mlp, width), nn.Dropout(dropout)
        )

    def forward(self, x_btd: Tensor) -> Tensor:
        x_btd = x_btd + self.attention(self.attention_norm(x_btd))
        out: Tensor = x_btd + self.mlp(self.mlp_norm(x_btd))
        return out


class Network(nn.Module):
    """Class token and position embedding are learned, and drawn from the standard normal distribution."""

    def __init__(self, options: ViT, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.patch, width, dropout = options.patch, options.width, options.dropout
        channels, height, breadth = image_shape
        patches = (height // self.patch) * (breadth // self.patch)
        self.embed = nn.Linear(channels * self.patch**2, width)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, patches + 1, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, options.heads, options.mlp, dropout) for _ in range(options.depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        # (B, C, height, breadth) -> (B, patches, C * patch * patch)
        patches = F.pixel_unshuffle(images, self.patch).flatten(2).transpose(1, 2)
        x_btd = torch.cat([self.class_token.expand(len(images), -1, -1), self.embed(patches)], dim=1)
        x_btd = self.blocks(self.dropout(x_btd + self.position))
        logits: Tensor = self.head(self.norm(x_btd[:, 0]))
        return logits

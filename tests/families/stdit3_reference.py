"""STDiT3 written out once more in float64, a clip at a time, as a third opinion for both backends."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Weights = Mapping[str, np.ndarray]


class Reference:
    """One clip at a time; so nothing of one sample can reach another."""

    def __init__(self, spec: Any, weights: Weights) -> None:
        self.spec = spec
        self.weights = {name: array.astype(np.float64) for name, array in weights.items()}

    def __call__(
        self,
        latents: np.ndarray,
        time: float,
        text: np.ndarray,
        fps: float,
        height: float,
        width: float,
        moves: np.ndarray | None = None,
        kept: np.ndarray | None = None,
    ) -> np.ndarray:
        """Latents (C, T, H, W) and the text's own tokens (L, C') -> (Cout, T, H, W)."""
        kept = np.ones((2 * self.spec.depth, 2)) if kept is None else kept
        x, grid = self._tokens(latents)  # (T, S, D)
        x = x + self._positions(grid, height, width)
        moves = np.ones(latents.shape[1], bool) if moves is None else moves
        step = self.spec.patch_size[0]
        moves = np.array([moves[i : i + step].any() for i in range(0, len(moves), step)])
        noisy, clean = (self._scalar("t_embedder", t) + self._scalar("fps_embedder", fps) for t in (time, 0.0))
        bent, still = (self._linear("t_block.1", silu(embedded)) for embedded in (noisy, clean))
        tables = np.where(moves[:, None], bent, still).reshape(len(moves), 6, -1)
        if not self.spec.skip_y_embedder:
            text = self._mlp("y_embedder.y_proj", text)
        for i in range(self.spec.depth):
            for kind in ("spatial", "temporal"):
                is_temporal = kind == "temporal"
                x = self._block(f"{kind}_blocks.{i}", x, tables, text, is_temporal, kept[2 * i + is_temporal])
        shift, scale = self.weights["final_layer.scale_shift_table"] + noisy
        y = norm(x) * (1 + scale) + shift
        shift, scale = self.weights["final_layer.scale_shift_table"] + clean
        y = np.where(moves[:, None, None], y, norm(y) * (1 + scale) + shift)  # Q3: clean frames are bent twice
        return self._picture(self._linear("final_layer.linear", y), grid, latents.shape[1:])

    def _block(
        self, name: str, x: np.ndarray, tables: np.ndarray, text: np.ndarray, is_temporal: bool, kept: np.ndarray
    ) -> np.ndarray:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (
            self.weights[f"{name}.scale_shift_table"] + tables
        ).swapaxes(0, 1)[:, :, None]
        x = x + kept[0] * gate_a * self._self_attention(f"{name}.attn", norm(x) * (1 + scale_a) + shift_a, is_temporal)
        x = x + self._cross_attention(f"{name}.cross_attn", x, text)
        return x + kept[1] * gate_m * self._mlp(f"{name}.mlp", norm(x) * (1 + scale_m) + shift_m)

    def _self_attention(self, name: str, x: np.ndarray, is_temporal: bool) -> np.ndarray:
        heads, width = self.spec.num_heads, self.spec.head_dim
        x = x.swapaxes(0, 1) if is_temporal else x  # (sub-sequences, tokens, D)
        q, k, v = self._linear(f"{name}.qkv", x).reshape(*x.shape[:2], 3, heads, width).transpose(2, 0, 3, 1, 4)
        if is_temporal and getattr(self.spec, "qk_norm_legacy", False):
            q, k = turned(q), turned(k)
        if getattr(self.spec, "qk_norm", False):
            q, k = (
                part / np.sqrt((part**2).mean(-1, keepdims=True) + 1e-6) * self.weights[f"{name}.{which}_norm.weight"]
                for part, which in ((q, "q"), (k, "k"))
            )
        if is_temporal and not getattr(self.spec, "qk_norm_legacy", False):
            q, k = turned(q), turned(k)
        mixed = attention(q, k, v).transpose(0, 2, 1, 3).reshape(x.shape)
        return self._linear(f"{name}.proj", mixed.swapaxes(0, 1) if is_temporal else mixed)

    def _cross_attention(self, name: str, x: np.ndarray, text: np.ndarray) -> np.ndarray:
        heads, width = self.spec.num_heads, self.spec.head_dim
        q = self._linear(f"{name}.q_linear", x).reshape(-1, heads, width).swapaxes(0, 1)
        k, v = self._linear(f"{name}.kv_linear", text).reshape(-1, 2, heads, width).transpose(1, 2, 0, 3)
        return self._linear(f"{name}.proj", attention(q, k, v).swapaxes(0, 1).reshape(x.shape))

    def _tokens(self, latents: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        patch = self.spec.patch_size
        missing = [-size % step for size, step in zip(latents.shape[1:], patch, strict=True)]
        padded = np.pad(latents, [(0, 0), *((0, count) for count in missing)])
        grid = tuple(size // step for size, step in zip(padded.shape[1:], patch, strict=True))
        tokens = np.empty((grid[0], grid[1] * grid[2], self.spec.hidden_size))
        for t, i, j in np.ndindex(*grid):
            pt, ph, pw = patch
            piece = padded[:, t * pt : (t + 1) * pt, i * ph : (i + 1) * ph, j * pw : (j + 1) * pw]
            kernel = self.weights["x_embedder.proj.weight"]
            tokens[t, i * grid[2] + j] = (kernel * piece).sum((1, 2, 3, 4)) + self.weights["x_embedder.proj.bias"]
        return tokens, grid

    def _picture(self, y: np.ndarray, grid: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
        pt, ph, pw = self.spec.patch_size
        out = np.empty((self.spec.out_channels, *(n * p for n, p in zip(grid, self.spec.patch_size, strict=True))))
        for t, i, j in np.ndindex(*grid):
            piece = y[t, i * grid[2] + j].reshape(pt, ph, pw, -1)
            out[:, t * pt : (t + 1) * pt, i * ph : (i + 1) * ph, j * pw : (j + 1) * pw] = np.moveaxis(piece, -1, 0)
        return out[:, : size[0], : size[1], : size[2]]

    def _positions(self, grid: tuple[int, ...], height: float, width: float) -> np.ndarray:
        rows, columns = grid[1:]
        side, scale = round(np.sqrt(rows * columns)), np.sqrt(height * width) / self.spec.input_sq_size
        return np.array(
            [
                [*self._waves(j / scale * side / columns), *self._waves(i / scale * side / rows)]
                for i in range(rows)
                for j in range(columns)
            ]
        )

    def _waves(self, place: float) -> list[float]:
        half = self.spec.hidden_size // 2
        angles = [place * 10000 ** (-2 * k / half) for k in range(half // 2)]
        return [*np.sin(angles), *np.cos(angles)]

    def _scalar(self, name: str, value: float) -> np.ndarray:
        angles = value * 10000.0 ** (-np.arange(128) / 128)
        waves = np.concatenate([np.cos(angles), np.sin(angles)])
        return self._linear(f"{name}.mlp.2", silu(self._linear(f"{name}.mlp.0", waves)))

    def _mlp(self, name: str, x: np.ndarray) -> np.ndarray:
        inner = self._linear(f"{name}.fc1", x)
        inner = inner / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        return self._linear(f"{name}.fc2", inner)

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]


def norm(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    scores = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
    return scores / scores.sum(-1, keepdims=True) @ v


def turned(x: np.ndarray) -> np.ndarray:
    """Each pair of neighbours in the last axis as a complex number, turned by the place in the last axis but one."""
    frames, width = x.shape[-2:]
    pairs = x[..., ::2] + 1j * x[..., 1::2]
    pairs = pairs * np.exp(1j * np.arange(frames)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width))
    return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)

"""STDiT and STDiT2 written out once more in float64, a clip at a time, as a third opinion for both backends."""

import numpy as np
from stdit3_reference import Reference, norm, silu

from duosora.core.models.stdit import STDiTSpec
from duosora.core.models.stdit2 import STDiT2Spec


class Blocks(Reference):
    """What both have in common."""

    def _row(self, name: str, moves: np.ndarray, noisy: np.ndarray, clean: np.ndarray) -> np.ndarray:
        """A modulation of each frame, (parts, T, 1, D)."""
        table = self.weights[name]
        bent = np.where(moves[:, None], noisy, clean).reshape(len(moves), *table.shape)
        return (table + bent).swapaxes(0, 1)[:, :, None]

    def _moves(self, frames: int, moves: np.ndarray | None) -> np.ndarray:
        moves = np.ones(frames, bool) if moves is None else moves
        step = self.spec.patch_size[0]
        return np.array([moves[i : i + step].any() for i in range(0, len(moves), step)])

    def _last(self, x: np.ndarray, moves: np.ndarray, noisy: np.ndarray, clean: np.ndarray) -> np.ndarray:
        shift, scale = self.weights["final_layer.scale_shift_table"] + noisy
        y = norm(x) * (1 + scale) + shift
        shift, scale = self.weights["final_layer.scale_shift_table"] + clean
        y = np.where(moves[:, None, None], y, norm(y) * (1 + scale) + shift)  # Q3: clean frames are bent twice
        return self._linear("final_layer.linear", y)


class STDiTReference(Blocks):
    spec: STDiTSpec

    def clip(self, latents: np.ndarray, time: float, text: np.ndarray, moves: np.ndarray | None = None) -> np.ndarray:
        """Latents (C, T, H, W) and the text's own tokens (L, C') -> (Cout, T, H, W)."""
        x, grid = self._tokens(latents)
        rows, columns, width, scale = *grid[1:], self.spec.hidden_size, self.spec.space_scale
        x = x + np.array(
            [[*self._waves(j / scale), *self._waves(i / scale)] for i in range(rows) for j in range(columns)]
        )
        angles = (np.arange(grid[0]) / self.spec.time_scale)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
        in_time = np.concatenate([np.sin(angles), np.cos(angles)], 1)[:, None]
        moves = self._moves(latents.shape[1], moves)
        noisy, clean = (self._scalar("t_embedder", t) for t in (time, 0.0))
        bent, still = (self._linear("t_block.1", silu(each)) for each in (noisy, clean))
        text = self._mlp("y_embedder.y_proj", text)
        for i in range(self.spec.depth):
            name = f"blocks.{i}"
            shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self._row(
                f"{name}.scale_shift_table", moves, bent, still
            )
            gate_time = self._row(f"{name}.scale_shift_table", np.ones_like(moves), bent, still)[2]
            x = x + gate_a * self._self_attention(f"{name}.attn", norm(x) * (1 + scale_a) + shift_a, False)
            x = x + gate_time * self._unturned(f"{name}.attn_temp", x + in_time * (i == 0))
            x = x + self._cross_attention(f"{name}.cross_attn", x, text)
            x = x + gate_m * self._mlp(f"{name}.mlp", norm(x) * (1 + scale_m) + shift_m)
        return self._picture(self._last(x, moves, noisy, clean), grid, latents.shape[1:])

    def _unturned(self, name: str, x: np.ndarray) -> np.ndarray:
        """Attention through time without rotary positions: that within frames, with the axes exchanged."""
        return self._self_attention(name, x.swapaxes(0, 1), False).swapaxes(0, 1)


class STDiT2Reference(Blocks):
    spec: STDiT2Spec

    def clip(
        self,
        latents: np.ndarray,
        time: float,
        text: np.ndarray,
        facts: dict[str, float],
        area: float,
        moves: np.ndarray | None = None,
    ) -> np.ndarray:
        """Latents (C, T, H, W), the text's own tokens (L, C') and what is told of the clip -> (Cout, T, H, W).

        area: of the first clip of the batch, in pixels.
        """
        x, grid = self._tokens(latents)
        x = x + self._positions(grid, area, 1.0)
        moves = self._moves(latents.shape[1], moves)
        sides = [self._scalar("csize_embedder", facts[side]) for side in ("height", "width")]
        size = np.concatenate([*sides, self._scalar("ar_embedder", facts["ratio"])])
        length = self._scalar("fl_embedder", facts["num_frames"]) + self._scalar("fps_embedder", facts["fps"])
        noisy, clean = (self._scalar("t_embedder", t) for t in (time, 0.0))
        space = [self._linear("t_block.1", silu(each + size)) for each in (noisy, clean)]
        through = [self._linear("t_block_temp.1", silu(each + length)) for each in (noisy, clean)]
        text = self._mlp("y_embedder.y_proj", text)
        for i in range(self.spec.depth):
            name = f"blocks.{i}"
            shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self._row(f"{name}.scale_shift_table", moves, *space)
            shift_t, scale_t, gate_t = self._row(f"{name}.scale_shift_table_temporal", moves, *through)
            x = x + gate_a * self._self_attention(f"{name}.attn", norm(x) * (1 + scale_a) + shift_a, False)
            x = x + gate_t * self._self_attention(f"{name}.attn_temp", norm(x) * (1 + scale_t) + shift_t, True)
            x = x + self._cross_attention(f"{name}.cross_attn", x, text)
            x = x + gate_m * self._mlp(f"{name}.mlp", norm(x) * (1 + scale_m) + shift_m)
        return self._picture(self._last(x, moves, noisy, clean + size), grid, latents.shape[1:])

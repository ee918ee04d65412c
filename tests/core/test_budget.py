"""The counting behind docs/distributed.md: what is measured agrees, and every table of the page is counted again."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from duosora.core.layout import FreshWeights
from duosora.core.maths.parts import Blocks
from duosora.core.models import opensora_t2v, t5, wfvae
from duosora.core.models.opensora_t2v import OpenSoraT2VSpec
from duosora.core.parallel import budget
from duosora.core.parallel.counting import attention_bytes
from duosora.core.seam.models import Given
from duosora.core.seam.ranks import make_plan
from duosora.core.shapes import LatentShape, VideoShape

PAGE = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")
T2V = opensora_t2v.PRESETS["opensora_plan_v1_3_t2v"]
WFVAE = wfvae.PRESETS["wfvae_d8_4x8x8"]


def num_parameters(spec: OpenSoraT2VSpec | t5.T5Spec | wfvae.WFVAESpec) -> int:
    return sum(math.prod(weight.shape) for weight in spec.layout().values())


def num_tokens(frames: int, height: int, width: int) -> int:
    return T2V.patch.tokens(WFVAE.compression.latent(VideoShape(frames, height, width))).num_tokens


def gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f}"


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its two head lines."""
    text = PAGE.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) > 2, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_sampling_plans_are_as_counted() -> None:
    tokens = num_tokens(93, 640, 640)
    assert f"{tokens:,} tokens" in PAGE
    for devices, split, videos, own, heads, weights, widest, sent in rows("Sampling 93x640x640"):
        data, cfg, sequence = map(int, split.split(" x "))
        plan = make_plan(int(devices), sequence, has_cfg=cfg == 2)
        assert (plan.data, plan.cfg) == (data, cfg)
        batch = 2 // cfg
        assert (int(videos), int(own.replace(",", ""))) == (data, Blocks(tokens, sequence).length)
        blocks = Blocks(T2V.num_attention_heads, sequence)
        assert heads == f"{blocks.length}" + (f", {blocks.padding} of zeros" if blocks.padding else "")
        assert weights == gigabytes(2 * num_parameters(T2V))
        assert widest == gigabytes(budget.inference_bytes(T2V.costs(), batch, tokens, sequence))
        assert sent == gigabytes(budget.call_bytes(T2V.costs(), batch, tokens, sequence))


def test_the_training_plans_are_as_counted() -> None:
    tokens = num_tokens(93, 352, 640)
    assert f"{tokens:,} tokens" in PAGE
    parameters, batch = num_parameters(T2V), 1024
    for devices, split, zero, micro, state, kept, total, of_state, of_tokens in rows(
        "Training stage 3, 93x352x640, 1024 videos a step"
    ):
        data, sequence = map(int, split.split(" x "))
        assert make_plan(int(devices), sequence).data == data
        own = batch // data
        assert int(micro) == own
        assert batch % data == 0
        held = budget.training_state(parameters, int(devices), int(zero), num_blocks=T2V.num_layers).total
        activations = budget.activation_bytes(T2V.costs(), 1, tokens, sequence, recompute_every=1)
        sent = budget.state_bytes(parameters, int(devices), int(zero), own)
        shared = own * budget.micro_batch_bytes(T2V.costs(), 1, tokens, sequence, recomputes=True)
        expected = [held, activations, held + activations, sent, shared]
        assert [state, kept, total, of_state, of_tokens] == list(map(gigabytes, expected))


def test_the_wfvae_plans_are_as_counted() -> None:
    parameters = num_parameters(WFVAE)
    for devices, accumulate, own, state, sent in rows("WFVAE"):
        assert int(accumulate) % int(devices) == 0
        assert int(own) == int(accumulate) // int(devices)
        assert state == gigabytes(budget.training_state(parameters, int(devices), 0).total)
        assert sent == gigabytes(budget.state_bytes(parameters, int(devices), 0))


def test_the_state_of_the_published_model_is_as_counted() -> None:
    parameters = num_parameters(T2V)
    assert f"{parameters:,} parameters" in PAGE
    for zero, ranks, *parts, total in rows("State of the published model"):
        state = budget.training_state(parameters, int(ranks), int(zero), num_blocks=T2V.num_layers)
        assert [*parts, total] == list(map(gigabytes, (*state, state.total)))


def test_numbers_in_the_text_are_as_counted() -> None:
    tokens = num_tokens(93, 640, 640)
    one = attention_bytes(2, tokens, T2V.num_attention_heads, T2V.attention_head_dim, 2, 8)
    assert f"{one / 1e6:.0f} MB" in PAGE
    kept = f"{budget.KEPT['bf16']} bytes"
    assert kept in PAGE
    assert f"{budget.KEPT['fp32']} in fp32" in PAGE
    assert f"about {budget.WORKING} numbers" in PAGE
    assert f"{gigabytes(2 * num_parameters(t5.PRESETS['mt5_xxl']))} GB" in PAGE


def test_what_fits_where_in_the_tutorial_is_as_counted() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")
    table = page.partition("| work | devices |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(table) >= 5
    encoder = 2 * num_parameters(t5.PRESETS["mt5_xxl"])
    assert f"{gigabytes(encoder)} GB" in page
    for row in table:
        work, devices, zero, *figures, device = [cell.strip() for cell in row.strip("|").split("|")]
        kind, size = work.split()
        tokens = num_tokens(*map(int, size.split("x")))
        if kind == "sample":
            held, on_top = 2 * num_parameters(T2V), budget.inference_bytes(T2V.costs(), 2, tokens, 1)
            most = max(held + on_top, encoder)
        else:
            state = budget.training_state(num_parameters(T2V), int(devices), int(zero), num_blocks=T2V.num_layers)
            held, on_top = state.total, budget.activation_bytes(T2V.costs(), 1, tokens, 1, recompute_every=1)
            most = held + on_top
        assert figures == list(map(gigabytes, (held, on_top, held + on_top))), row
        assert most / 0.9 <= float(device) * 1e9, row


def test_shares_are_parts_of_the_whole() -> None:
    whole = budget.training_state(1000, 1, 2, "fp32")
    assert whole == budget.State(4000, 0, 0, 4000, 8000, 4000)
    split = budget.training_state(1000, 8, 2, "fp32")
    assert split == budget.State(4000, 500, 0, 500, 1000, 500)
    assert budget.training_state(1000, 8, 3, "fp32", num_blocks=10).weights == 800
    assert budget.training_state(1000, 8, 0, "bf16", keeps_ema=False) == budget.State(4000, 0, 2000, 4000, 8000, 0)
    assert budget.state_bytes(1000, 1, 2, 5) == 0
    assert [budget.state_bytes(1000, 4, zero, 5) for zero in (0, 2, 3)] == [6000, 18000, 45000]


def test_fewer_activations_where_blocks_are_computed_again() -> None:
    every = [budget.activation_bytes(T2V.costs(), 1, 1000, 1, recompute_every=n) for n in (1, 2, 3, 0)]
    assert every == sorted(every)
    assert budget.activation_bytes(T2V.costs(), 1, 1001, 2) == budget.activation_bytes(T2V.costs(), 1, 501, 1)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("recompute_every", [0, 1])
def test_activations_are_what_torch_keeps(dtype: str, recompute_every: int) -> None:
    torch = pytest.importorskip("torch")
    from duosora.backends.torch.layers import autocast
    from duosora.core.seam import backend as backends
    from duosora.core.seam.training import TrainOptions

    def kept(layers: int, frames: int) -> int:
        """Bytes of all storages that the backward pass will want, weights not counted."""
        spec, latent = replace(opensora_t2v.TINY, num_layers=layers), LatentShape(frames, 16, 16)
        options = TrainOptions(dtype=dtype, recompute_every=recompute_every, attention="sdpa")
        step = backends.get("torch", "cpu").train_denoiser(spec, FreshWeights(spec.layout(), 0), options)
        weights = {parameter.untyped_storage().data_ptr() for parameter in step.model.parameters()}
        seen = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                seen[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, or its memory would be used again
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast("cpu", step.dtype):
            condition = step.model.condition(Given(text=np.zeros((1, 8, spec.caption_channels), np.float32)), latent)
            step.model(torch.zeros(1, spec.in_channels, *latent), torch.tensor([3.0]), condition)
        return sum(size for size, _ in seen.values())

    # Two blocks more, 256 tokens more: what is outside of blocks, or for each block once, falls out.
    grown = (kept(4, 9) - kept(2, 9)) - (kept(4, 5) - kept(2, 5))
    per_token_and_block = grown / 2 / (4 * 64) / opensora_t2v.TINY.hidden_size
    expected = budget.RESIDUAL if recompute_every else budget.KEPT[dtype]
    assert per_token_and_block == pytest.approx(expected, rel=0.02)

"""Attention kernels, skiparse arrangements, text lengths and rotary positions of the torch backend."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from duosora.backends.torch import attention
from duosora.backends.torch.attention import FlashAttend, KernelAttend, make_attend, place_plan, place_text
from duosora.core.errors import ConfigError, PackageMissing
from duosora.core.maths.rope import rope_tables
from duosora.core.maths.skiparse import attention_plan, text_plan, with_mask
from duosora.core.shapes import TokenGrid

HEADS, HEAD_DIM = 3, 12
CPU = torch.device("cpu")
ATTENDS = {"sdpa": KernelAttend(attention.sdpa), "math": KernelAttend(attention.math)}


def qkv(num_tokens: int, num_keys: int | None = None, batch: int = 2, seed: int = 0) -> list[torch.Tensor]:
    generator = np.random.default_rng(seed)
    lengths = (num_tokens, num_keys or num_tokens, num_keys or num_tokens)
    return [torch.from_numpy(generator.standard_normal((batch, n, HEADS, HEAD_DIM), np.float32)) for n in lengths]


def written_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, allowed: np.ndarray) -> np.ndarray:
    """Attention in float64 with allowed (B, N, M) pairs; a row that may attend to nothing is zero."""
    q64, k64, v64 = (x.numpy().astype(np.float64) for x in (q, k, v))
    scores = np.einsum("bnak,bmak->banm", q64, k64) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True)) * allowed[:, None]
    return np.einsum("banm,bmak->bnak", weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30), v64)


def same_sub_sequence(num_tokens: int, k: int, kind: str | None) -> np.ndarray:
    """(N, N): whether two tokens belong to one sub-sequence."""
    tokens = np.arange(num_tokens)
    number = {None: 0 * tokens, "single": tokens % k, "group": tokens // k % k}[kind]
    return number[:, None] == number


@pytest.mark.parametrize("name", ATTENDS)
@pytest.mark.parametrize("kind", [None, "single", "group"])
@pytest.mark.parametrize("num_tokens", [1, 5, 16, 35, 45, 48])
def test_tokens_attend_inside_their_sub_sequence(name: str, kind: str | None, num_tokens: int) -> None:
    q, k, v = qkv(num_tokens)
    got = ATTENDS[name].self_attention(q, k, v, place_plan(attention_plan(num_tokens, 4, kind), CPU))
    expected = written_out(q, k, v, same_sub_sequence(num_tokens, 4, kind)[None])
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ATTENDS)
@pytest.mark.parametrize("kind", [None, "single", "group"])
@pytest.mark.parametrize("num_tokens", [35, 48])
def test_masked_keys_are_left_out(name: str, kind: str | None, num_tokens: int) -> None:
    valid = np.random.default_rng(1).random((2, num_tokens)) < 0.8
    valid[:, : num_tokens // 2] |= same_sub_sequence(num_tokens, 4, kind)[0, : num_tokens // 2]
    q, k, v = qkv(num_tokens)
    plan = place_plan(with_mask(attention_plan(num_tokens, 4, kind), valid), CPU)
    got = ATTENDS[name].self_attention(q, k, v, plan)
    expected = written_out(q, k, v, same_sub_sequence(num_tokens, 4, kind) & valid[:, None])
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ATTENDS)
def test_masked_tokens_count_as_little_as_removed_ones(name: str) -> None:
    q, k, v = qkv(40)
    valid = np.random.default_rng(2).random(40) < 0.6
    whole = place_plan(with_mask(attention_plan(40), np.stack([valid, valid])), CPU)
    masked = ATTENDS[name].self_attention(q, k, v, whole)[:, valid]
    few = place_plan(attention_plan(int(valid.sum())), CPU)
    removed = ATTENDS[name].self_attention(q[:, valid], k[:, valid], v[:, valid], few)
    torch.testing.assert_close(masked, removed, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ATTENDS)
@pytest.mark.parametrize("kind", [None, "single", "group"])
@pytest.mark.parametrize("num_tokens", [32, 45])
def test_rows_are_finite_and_as_upstreams_where_every_key_is_masked(
    name: str, kind: str | None, num_tokens: int
) -> None:
    """A sub-sequence without valid keys gives zero where upstream pads it, else attends to all its keys (quirk Q6)."""
    valid = np.zeros((2, num_tokens), bool)
    valid[0, :3] = True
    q, k, v = qkv(num_tokens)
    plan = place_plan(with_mask(attention_plan(num_tokens, 4, kind), valid), CPU)
    got = ATTENDS[name].self_attention(q, k, v, plan)
    assert torch.isfinite(got).all()
    together = same_sub_sequence(num_tokens, 4, kind)
    is_dead = ~(together & valid[:, None]).any(-1)
    padded_length = num_tokens if kind is None else -(-num_tokens // 16) * 4
    is_padded = together.sum(-1) < padded_length
    allowed = together & (valid[:, None] | (is_dead & ~is_padded)[:, :, None])
    np.testing.assert_allclose(got, written_out(q, k, v, allowed), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ATTENDS)
def test_texts_are_attended_to_at_their_own_length(name: str) -> None:
    lengths = (7, 2)
    mask = np.arange(9) < np.array(lengths)[:, None]
    q, k, v = qkv(20, 7)
    got = ATTENDS[name].cross_attention(q, k, v, place_text(text_plan(mask, 9), 7, CPU))
    np.testing.assert_allclose(got, written_out(q, k, v, mask[:, None, :7]), rtol=0, atol=2e-6)


def test_nothing_is_masked_when_nothing_needs_to_be() -> None:
    for kind in (None, "single", "group"):
        arrangement = place_plan(with_mask(attention_plan(45, 4, kind), np.ones((2, 45), bool)), CPU)
        assert arrangement.keep is None
        assert arrangement.silent is None
    assert place_text(text_plan(np.ones((2, 7)), 7), 7, CPU).keep is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_reference_kernel_computes_in_float32(dtype: torch.dtype) -> None:
    q, k, v = (x.to(dtype) for x in qkv(20))
    got = attention.math(q, k, v, None)
    assert got.dtype == dtype
    torch.testing.assert_close(got, attention.math(q.float(), k.float(), v.float(), None).to(dtype), rtol=0, atol=0)


def flash_of_numpy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """What flash_attn_func promises: (B, N, A, K) in, no mask, (B, N, A, K) out."""
    everything = np.ones((len(q), q.shape[1], k.shape[1]), bool)
    return torch.from_numpy(written_out(q.float(), k.float(), v.float(), everything)).to(q.dtype)


@pytest.fixture
def flash_attend(monkeypatch: pytest.MonkeyPatch) -> FlashAttend:
    """Attention by a stand-in for flash-attn on a stand-in for a GPU."""
    package = ModuleType("flash_attn")
    vars(package)["flash_attn_func"] = flash_of_numpy
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr(attention, "_fits", lambda name, device: True)
    attend = make_attend("flash", "cuda", "bf16")
    assert isinstance(attend, FlashAttend)
    return attend


@pytest.mark.parametrize("kind", [None, "single", "group"])
@pytest.mark.parametrize("share", [1.0, 0.7])
def test_flash_gives_what_the_default_gives(flash_attend: FlashAttend, kind: str | None, share: float) -> None:
    q, k, v = qkv(45)
    valid = np.random.default_rng(3).random((2, 45)) < share
    plan = place_plan(with_mask(attention_plan(45, 4, kind), valid), CPU)
    expected = ATTENDS["sdpa"].self_attention(q, k, v, plan)
    torch.testing.assert_close(flash_attend.self_attention(q, k, v, plan), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("lengths", [(7, 2), (7, 7)])
def test_flash_attends_to_each_text_at_its_length(flash_attend: FlashAttend, lengths: tuple[int, int]) -> None:
    q, k, v = qkv(20, 7)
    text = place_text(text_plan(np.arange(7) < np.array(lengths)[:, None], 7), 7, CPU)
    expected = ATTENDS["sdpa"].cross_attention(q, k, v, text)
    torch.testing.assert_close(flash_attend.cross_attention(q, k, v, text), expected, rtol=0, atol=2e-6)


def test_flash_refuses_wide_heads(flash_attend: FlashAttend) -> None:
    wide = torch.zeros(1, 4, 1, 264)
    with pytest.raises(ConfigError, match="heads up to 256 wide, not 264; use 'sdpa'"):
        flash_attend.cross_attention(wide, wide, wide, place_text(text_plan(None, 4), 4, CPU))


def test_flash_refuses_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_fits", lambda name, device: True)
    with pytest.raises(ConfigError, match="'flash' computes in fp16 or bf16, not fp32"):
        make_attend("flash", "cuda", "fp32")


def test_flash_that_does_not_load_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_fits", lambda name, device: True)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(
        PackageMissing,
        match=r"'flash' needs .*\[flash-attn\]\" --no-build-isolation in the clone of duosora, or use 'sdpa'",
    ):
        make_attend("flash", "cuda", "bf16")


def test_flash_refuses_the_cpu() -> None:
    with pytest.raises(ConfigError, match=r"'flash' needs an NVIDIA GPU .* not 'cpu'; use 'sdpa'"):
        make_attend("flash", "cpu", "bf16")
    assert attention.kernels("cpu") == ("sdpa", "math", "onednn")


@pytest.mark.parametrize(
    ("name", "device", "dtype", "told"),
    [
        (
            "cudnn",
            "cpu",
            "bf16",
            "'cudnn' needs an NVIDIA GPU of the Hopper generation or newer, not 'cpu'; use 'sdpa'",
        ),
        ("onednn", "meta", "fp32", "'onednn' needs a CPU, and torch with oneDNN, not 'meta'; use 'sdpa'"),
    ],
)
def test_a_kernel_that_the_device_lacks_is_refused(name: str, device: str, dtype: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_attend(name, device, dtype)


@pytest.mark.parametrize(
    ("capability", "dtype", "expected"),
    [((9, 0), "bf16", "_cudnn"), ((10, 0), "fp16", "_cudnn"), ((9, 0), "fp32", "sdpa"), ((8, 0), "bf16", "sdpa")],
)
def test_a_gpu_gets_the_kernel_that_is_fastest_there(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: str, expected: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    attend = make_attend("auto", "cuda", dtype)
    assert isinstance(attend, KernelAttend)
    assert attend.kernel.__name__ == expected


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_by_onednn_gives_what_torchs_own_gives(
    monkeypatch: pytest.MonkeyPatch, masked: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(attention, "_LEAST_SCORES", 0)
    monkeypatch.setattr(attention, "_MOST_SCORES", 3 * 45)  # so that queries come in several parts
    attend = make_attend("auto", "cpu", "fp32")
    q, k, v = (x.to(dtype) for x in qkv(100, 45))
    keep = torch.rand(2, HEADS, 1, 45, generator=torch.Generator().manual_seed(0)) < 0.6 if masked else None
    with torch.no_grad():
        got = attend.kernel(q, k, v, keep)  # type: ignore[attr-defined]
    expected = attention.math(q.float(), k.float(), v.float(), keep)
    # In bf16 scores of up to 4 are rounded to 9 bits, as their shares are.
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=2e-6 if dtype == torch.float32 else 3e-2)


def test_attention_by_onednn_leaves_what_needs_a_gradient_to_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_LEAST_SCORES", 0)
    q, k, v = (x.requires_grad_() for x in qkv(20))
    make_attend("onednn", "cpu", "fp32").cross_attention(
        q, k, v, place_text(text_plan(None, 20), 20, CPU)
    ).sum().backward()
    assert q.grad is not None


def test_an_unknown_kernel_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="attention = 'flsh': needs one of auto, sdpa, math, onednn, cudnn, flash"):
        make_attend("flsh", "cpu", "fp32")


@pytest.mark.parametrize("name", attention.kernels("cpu"))
def test_kernels_of_the_cpu_can_be_made(name: str) -> None:
    assert make_attend(name, "cpu", "fp32") is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rotation_is_done_in_float32_and_keeps_the_dtype(dtype: torch.dtype) -> None:
    grid = TokenGrid(3, 4, 5)
    cosines, sines = (torch.from_numpy(table.copy()) for table in rope_tables(grid, HEAD_DIM, (1.0, 1.0, 1.0)))
    x = qkv(grid.num_tokens)[0].to(dtype)
    got = attention.rotate(x, cosines, sines)
    halves = x.float().unflatten(-1, (3, 2, HEAD_DIM // 6))
    expected = x.float() * cosines[:, None] + halves.flip(-2).flatten(-3) * sines[:, None]
    # One rounding to the dtype at the end; float32 itself rounds in another order.
    torch.testing.assert_close(got, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_gradients_flow_through_the_arrangement() -> None:
    tensors = [x.double().requires_grad_() for x in qkv(7, batch=1)]
    plan = place_plan(attention_plan(7, 2, "group"), CPU)
    assert torch.autograd.gradcheck(lambda q, k, v: ATTENDS["sdpa"].self_attention(q, k, v, plan), tensors)

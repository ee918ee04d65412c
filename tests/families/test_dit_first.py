"""DiT of the first release: each way to tell it the text, written out once more; lists of patches; refusals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from family_cases import awake
from thread_tensors import on_ranks

from duosora.core.config.schema import ModelSettings
from duosora.core.data.patch_lists import padded, patches_of
from duosora.core.errors import ConfigError, LayoutError, ShapeError
from duosora.core.models.by_shapes import seen_by_shapes
from duosora.core.models.dit_first import PRESETS, TINY, WAYS, DiTFirstSpec
from duosora.core.models.finding import open_part
from duosora.core.pipelines.settings import open_parts, with_companions
from duosora.core.random import normal
from duosora.core.seam.backend import NAMES, Backend, get
from duosora.core.seam.group import Group
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

SMALL = replace(TINY, depth=2, text_embed_dim=12, max_num_embeddings=30)
"""Its places lie in rows of six."""
CLIPS = (LatentShape(2, 4, 6), LatentShape(1, 8, 2))
TEXT_TOKENS, LONGEST = 5, 12
TIMES = np.array([700.0, 3.5])
LIMIT = 2e-5
"""Of the largest value."""


@pytest.fixture(params=WAYS)
def spec(request: pytest.FixtureRequest) -> DiTFirstSpec:
    return replace(SMALL, model_arch=request.param)


def lists() -> tuple[np.ndarray, np.ndarray]:
    """Two clips of different sizes as lists of patches (B, S, C, P, P), and which of them are patches."""
    clips = [normal((size.frames, 3, size.height, size.width), 1, f"clip {i}") for i, size in enumerate(CLIPS)]
    return padded([patches_of(clip, SMALL.patch_size) for clip in clips])


def given(spec: DiTFirstSpec, mask: np.ndarray | None, text_mask: np.ndarray | None) -> Given:
    if mask is not None:
        mask = np.broadcast_to(mask[..., None, None], (*mask.shape, 2, 2)).astype(np.float32)
    if spec.pools:
        return Given(pooled=normal((2, 12), 2, "text"), latent_mask=mask)
    return Given(text=normal((2, TEXT_TOKENS, 12), 2, "text"), text_mask=text_mask, latent_mask=mask)


def predicted(
    backend: Backend, spec: DiTFirstSpec, patches: np.ndarray, given: Given, group: Group | None = None
) -> np.ndarray:
    """What it predicts of lists (B, S, C, P, P), (B, S, Cout, P, P)."""
    model = backend.build(spec, awake(spec), sequence=group)
    latents = np.ascontiguousarray(patches.swapaxes(1, 2))
    with backend.inference():
        condition = model.condition(given, LatentShape(*latents.shape[2:]))
        times = backend.asarray(TIMES.astype(np.float32)[: len(patches)])
        return backend.to_numpy(model(backend.asarray(latents), times, condition)).swapaxes(1, 2)


class Reference:
    """In float64, with masks of tokens by tokens as upstream has them."""

    def __init__(self, spec: DiTFirstSpec) -> None:
        self.spec, held = spec, awake(spec)
        self.weights = {name: held[name].astype(np.float64) for name in held}

    def __call__(self, patches: np.ndarray, given: Given, mask: np.ndarray | None = None) -> np.ndarray:
        spec, batch = self.spec, len(patches)
        x = patches.reshape(batch, patches.shape[1], -1).astype(np.float64)
        x = x @ self.weights["video_embedder.proj.weight"].reshape(spec.hidden_size, -1).T
        x = x + self.weights["video_embedder.proj.bias"]
        counts = np.ones(x.shape[:2]) if mask is None else mask
        text, before = None, 0
        bent = self.embedded_time()
        if spec.model_arch == "adaln":
            assert given.pooled is not None
            bent = bent + self.linear("text_embedder.proj", given.pooled)
            reads = counts
        else:
            text = given.text
            assert text is not None
            of_text = np.ones(text.shape[:2]) if given.text_mask is None else given.text_mask
            reads = of_text
            if spec.model_arch == "token-concat":
                before = text.shape[1]
                x = np.concatenate([self.linear("text_embedder.proj", text), x], 1)
                counts = reads = np.concatenate([of_text, counts], 1)
                text = None
        for row in range(batch):
            shift = 0 if spec.counts_padding or not before else before - int(of_text[row].sum())
            places = self.places(x.shape[1])
            x[row, :before] += places[:before]
            x[row, before:] += places[before - shift : len(places) - shift]
        hidden = counts[:, None, :, None] * reads[:, None, None, :] == 0
        bent = silu(bent)
        for i in range(spec.depth):
            name = f"blocks.{i}"
            parts = np.split(self.linear(f"{name}.adaLN_modulation.1", bent)[:, None], 6, -1)
            y = norm(x) * (1 + parts[1]) + parts[0]
            x = x + parts[2] * self.attention(f"{name}.attn", y, y if text is None else text, hidden)
            y = norm(x) * (1 + parts[4]) + parts[3]
            x = x + parts[5] * self.linear(f"{name}.mlp.fc2", gelu(self.linear(f"{name}.mlp.fc1", y)))
        shift, scale = np.split(self.linear("final_layer.adaLN_modulation.1", bent)[:, None], 2, -1)
        out = self.linear("final_layer.linear", norm(x[:, before:]) * (1 + scale) + shift)
        return out.reshape(*out.shape[:2], -1, spec.patch_size, spec.patch_size)

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def embedded_time(self) -> np.ndarray:
        angles = TIMES[:, None] * np.exp(-np.log(10000.0) * np.arange(128) / 128)
        waves = np.concatenate([np.cos(angles), np.sin(angles)], 1)
        return self.linear("t_embedder.mlp.2", silu(self.linear("t_embedder.mlp.0", waves)))

    def places(self, count: int) -> np.ndarray:
        """Number p lies in column p mod side of row p div side."""
        side, quarter = 6, self.spec.hidden_size // 4
        speeds = 10000.0 ** (-np.arange(quarter) / quarter)
        column, row = np.arange(count) % side, np.arange(count) // side
        waves = [wave(place[:, None] * speeds) for place in (column, row) for wave in (np.sin, np.cos)]
        return np.concatenate(waves, 1)

    def attention(self, name: str, x: np.ndarray, read: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        q, k, v = (
            self.heads(self.linear(f"{name}.to_{part}", of)) for part, of in zip("qkv", (x, read, read), strict=True)
        )
        scores = q @ k.swapaxes(2, 3) / np.sqrt(self.spec.head_dim)
        scores = np.where(hidden, -1e300, scores)  # where all are, all count alike
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True) @ v).swapaxes(1, 2)
        return self.linear(f"{name}.to_out.0", mixed.reshape(*mixed.shape[:2], -1))

    def heads(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], self.spec.num_heads, -1).swapaxes(1, 2)


def norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def near(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=LIMIT * np.abs(expected).max())


TEXT_MASK = np.array([[1] * 5, [1, 1, 0, 0, 0]])


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("counts_padding", [False, True], ids=["ours", "upstream"])
def test_it_computes_what_is_written(backend: Backend, spec: DiTFirstSpec, masked: bool, counts_padding: bool) -> None:
    spec = replace(spec, counts_padding=counts_padding)
    patches, mask = lists()
    about = given(spec, mask if masked else None, TEXT_MASK if masked else None)
    near(predicted(backend, spec, patches, about), Reference(spec)(patches, about, mask if masked else None))


def test_a_text_without_tokens_gives_the_mean_of_what_it_holds(backend: Backend) -> None:
    spec = replace(SMALL, model_arch="cross-attn")
    patches, _ = lists()
    about = given(spec, None, np.array([[1] * 5, [0] * 5]))
    near(predicted(backend, spec, patches, about), Reference(spec)(patches, about))


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_share_a_padded_batch(backend: Backend, spec: DiTFirstSpec, size: int) -> None:
    patches, mask = lists()
    about = given(spec, mask, TEXT_MASK)
    alone = predicted(backend, spec, patches, about)
    for got in on_ranks(size, backend, lambda group: predicted(backend, spec, patches, about, group)):
        near(got, alone)


def test_a_clip_is_predicted_in_a_batch_as_by_itself(backend: Backend, spec: DiTFirstSpec) -> None:
    """What a longer clip and a longer text beside them pad them with changes nothing."""
    patches, mask = lists()
    about = given(spec, mask, TEXT_MASK)
    whole = predicted(backend, spec, patches, about)
    count = int(mask[1].sum())
    row = {} if about.text is None else {"text": about.text[1:, : TEXT_MASK[1].sum()]}
    if about.pooled is not None:
        row = {"pooled": about.pooled[1:]}
    times = TIMES.copy()
    try:
        TIMES[:] = TIMES[::-1]
        alone = predicted(backend, spec, patches[1:, :count], Given(**row))
    finally:
        TIMES[:] = times
    near(whole[1:, :count], alone)


def test_a_clip_and_its_list_of_patches_are_the_same_to_it(backend: Backend, spec: DiTFirstSpec) -> None:
    clip = normal((2, 3, 2, 4, 6), 1, "clip")
    patches = np.stack([patches_of(each.swapaxes(0, 1), 2) for each in clip])
    about = given(spec, None, None)
    model = backend.build(spec, awake(spec))
    with backend.inference():
        condition = model.condition(about, LatentShape(2, 4, 6))
        out = backend.to_numpy(model(backend.asarray(clip), backend.asarray(TIMES.astype(np.float32)), condition))
    listed = np.stack([patches_of(each.swapaxes(0, 1), 2) for each in out])
    near(listed, predicted(backend, spec, patches, about))


def test_no_text_is_zeros_under_the_mask_of_the_text(backend: Backend, spec: DiTFirstSpec) -> None:
    patches, mask = lists()
    about = given(spec, mask, TEXT_MASK)
    name = "pooled" if spec.pools else "text"
    zeros = getattr(about, name).copy()
    zeros[0] = 0
    flagged = predicted(backend, spec, patches, replace(about, is_null=np.array([True, False])))
    np.testing.assert_array_equal(flagged, predicted(backend, spec, patches, replace(about, **{name: zeros})))
    assert np.abs(flagged - predicted(backend, spec, patches, about))[0].max() > 1e-3


def test_where_it_attends_to_the_text_patches_know_nothing_of_each_other(backend: Backend, spec: DiTFirstSpec) -> None:
    patches, _ = lists()
    changed = patches.copy()
    changed[:, 0] += 1
    about = given(spec, None, None)
    moved = np.abs(predicted(backend, spec, changed, about) - predicted(backend, spec, patches, about))
    assert moved[:, 0].max() > 1e-3
    assert (moved[:, 1:].max() < 1e-5) == spec.attends_to_text


def bad(name: str, values: np.ndarray) -> Given:
    return replace(given(replace(SMALL, model_arch="cross-attn"), None, None), **{name: values})


@pytest.mark.parametrize(
    ("way", "told", "said"),
    [
        ("adaln", Given(text=np.zeros((2, 5, 12))), "pooled: needs batch x 12, got nothing"),
        ("adaln", Given(pooled=np.zeros((2, 5, 12))), "got 2 x 5 x 12"),
        ("cross-attn", Given(pooled=np.zeros((2, 12))), "text: needs batch x tokens x 12, got nothing"),
        ("token-concat", Given(text=np.zeros((2, 5, 13))), "got 2 x 5 x 13"),
        ("cross-attn", bad("text_mask", np.ones((2, 4))), "text_mask: got 2 x 4 for a batch of 2 x 5"),
        ("cross-attn", bad("is_null", np.ones(3, bool)), "is_null: got 3 for a batch of 2"),
        ("cross-attn", bad("latent_mask", np.ones((2, 1, 4, 4))), "latent_mask: got 2 x 1 x 4 x 4 for a batch"),
        ("cross-attn", bad("latent_mask", np.zeros((2, 2, 4, 6))), "a clip without any patch"),
    ],
)
def test_what_does_not_fit_is_refused(way: str, told: Given, said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        replace(SMALL, model_arch=way).settled(told, LatentShape(2, 4, 6))


def test_a_list_longer_than_its_places_is_refused(backend: Backend) -> None:
    """Where upstream moves all places, also of later lists."""
    spec = replace(SMALL, model_arch="token-concat")
    with pytest.raises(ShapeError, match="31 tokens, but it has 30 places"):
        spec.grid(LatentShape(31, 2, 2))
    model = backend.build(spec, awake(spec))
    with pytest.raises(ShapeError, match="31 tokens, but it has 30 places"):
        model.condition(Given(text=np.zeros((1, 5, 12), np.float32)), LatentShape(26, 2, 2))


def test_sizes_that_patches_do_not_tile_are_refused() -> None:
    with pytest.raises(ShapeError, match="latent width = 5: needs a multiple of the patch size 2"):
        SMALL.grid(LatentShape(1, 4, 5))


def test_weights_of_two_ways_have_the_same_names_so_a_file_alone_does_not_tell() -> None:
    adaln, concat = (replace(SMALL, model_arch=way).layout() for way in ("adaln", "token-concat"))
    shapes = {name: weight.shape for name, weight in adaln.items()}
    assert shapes == {name: weight.shape for name, weight in concat.items()}
    with pytest.raises(ConfigError, match=r"model\.pt: weights of adaln and of token-concat have the same names"):
        seen_by_shapes(shapes, "model.pt")
    text = {name: weight.shape for name, weight in replace(SMALL, model_arch="cross-attn").layout().items()}
    seen = seen_by_shapes(text, "model.pt")
    assert seen is not None
    assert seen.spec.model_arch == "cross-attn"
    assert seen.spec.text_embed_dim == 12


def test_weights_of_another_way_are_refused_by_name() -> None:
    text = {name: weight.shape for name, weight in replace(SMALL, model_arch="cross-attn").layout().items()}
    adaln = {name: weight.shape for name, weight in replace(SMALL, model_arch="adaln").layout().items()}
    with pytest.raises(LayoutError, match=r"^model\.pt does not fit DiT\(adaln, .*; it is of model_arch = cross-attn$"):
        replace(SMALL, model_arch="adaln").layout().check(text, "model.pt")
    with pytest.raises(LayoutError, match="; it is of model_arch = adaln or token-concat$"):
        replace(SMALL, model_arch="cross-attn").layout().check(adaln, "model.pt")


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("dit_first_xl_2_adaln", 674_258_712),
        ("dit_first_xl_2_token_concat", 674_258_712),
        ("dit_first_xl_2_cross_attn", 632_380_056),
        ("dit_first_s_8_cross_attn", 33_863_424),
        ("dit_first_s_8_adaln", 32_880_768),
    ],
)
def test_published_sizes(preset: str, count: int) -> None:
    assert PRESETS[preset].layout().num_parameters == count


@pytest.mark.parametrize(
    ("denoiser", "vae"),
    [
        ("dit_first_s_8_adaln", "pixels_half"),
        ("dit_first_s_2_adaln_vae", "sd_vae_ft_mse"),
        ("dit_first_s_2_token_concat_vqvae", "vqvae_stride2x4x4"),
    ],
)
def test_a_preset_brings_an_autoencoder_of_its_channels(denoiser: str, vae: str) -> None:
    found = with_companions(ModelSettings(denoiser=denoiser))
    assert (str(found.vae), str(found.text_encoder)) == (vae, "clip_vit_b_32")


@pytest.mark.parametrize(("way", "pooled"), [("adaln", True), ("cross_attn", False)])
def test_a_text_encoder_gives_what_the_denoiser_reads(way: str, pooled: bool) -> None:
    model = ModelSettings(denoiser=f"dit_first_tiny_{way}", text_encoder=Path("tiny"), vae=Path("pixels_half"))
    encoder = open_parts(model).text_encoder
    assert encoder is not None
    assert encoder.spec.pooled == pooled


def test_a_text_encoder_that_cannot_is_refused() -> None:
    model = ModelSettings(denoiser="dit_first_tiny_cross_attn", text_encoder=Path("clip_vit_bigg_14"))
    with pytest.raises(ConfigError, match=r"model\.text_encoder = clip_vit_bigg_14: .*only the vector of a text"):
        open_parts(model)


def test_the_vector_of_a_t5_is_the_mean_of_its_tokens_states(backend: Backend) -> None:
    part = open_part("text_encoder", "tiny")
    ids, mask = np.array([[5, 6, 7, 1], [8, 1, 0, 0]]), np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    states, vectors = (
        backend.to_numpy(
            backend.build(replace(part.spec, pooled=pooled), part.open())(backend.asarray(ids), backend.asarray(mask))
        )
        for pooled in (False, True)
    )
    near(vectors, np.stack([states[0].mean(0), states[1, :2].mean(0)]))


def test_fresh_models_predict_nothing() -> None:
    layout = TINY.layout()
    for name in ("final_layer.linear.weight", "blocks.0.adaLN_modulation.1.weight"):
        assert not layout[name].init.make(layout[name].shape, np.random.default_rng(0)).any()


def test_both_backends_agree_on_all_three_ways(spec: DiTFirstSpec) -> None:
    patches, mask = lists()
    about = given(spec, mask, TEXT_MASK)
    torchs, mindspores = (predicted(get(name, "cpu"), spec, patches, about) for name in NAMES)
    near(mindspores, torchs)

"""The weights that training begins with: all of a file, or a stated mixture."""

import json
from pathlib import Path

import numpy as np
import pytest

from duosora.core.errors import ConfigError, LayoutError
from duosora.core.io.weights import save_weights
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models.finding import open_part
from duosora.core.models.opensora_t2v import TINY, TINY_INPAINT
from duosora.core.models.wfvae import TINY as TINY_WFVAE
from duosora.core.train.start import check_frozen, check_meaning, start_from

LAYOUT, INPAINT = TINY.layout(), TINY_INPAINT.layout()
SEED = 7


@pytest.fixture(scope="module")
def file() -> GivenWeights:
    fresh = FreshWeights(LAYOUT, 1)
    return GivenWeights({name: fresh[name] + 1 for name in fresh}, "t2v.safetensors")


def test_a_whole_file_is_taken_as_it_is(file: GivenWeights) -> None:
    start = start_from(LAYOUT, file, SEED)
    assert start.weights is file
    assert start.report == (f"weights    all {len(LAYOUT)} from t2v.safetensors",)


def test_weights_of_the_same_shapes_that_mean_something_else_are_refused(tmp_path: Path) -> None:
    presets = {way: open_part("denoiser", f"dit_first_tiny_{way}") for way in ("adaln", "token_concat")}
    (tmp_path / "config.json").write_text(json.dumps(presets["token_concat"].spec.to_config()))
    save_weights(tmp_path, dict(presets["token_concat"].open()))
    check_meaning(presets["token_concat"], tmp_path)
    with pytest.raises(ConfigError, match=r"its model_arch is token-concat, and that of dit_first_tiny_adaln is adaln"):
        check_meaning(presets["adaln"], tmp_path)


def test_what_is_left_out_is_drawn_freshly_and_told(file: GivenWeights) -> None:
    start = start_from(LAYOUT, file, SEED, leave_out=("proj_out.",))
    fresh = FreshWeights(LAYOUT, SEED)
    for name in LAYOUT:
        expected = fresh[name] if name.startswith("proj_out.") else file[name]
        np.testing.assert_array_equal(start.weights[name], expected)
    assert start.report[1] == "           2 left out, freshly drawn: proj_out.bias, proj_out.weight"


def test_an_inpaint_model_grows_from_a_text_to_video_one(file: GivenWeights) -> None:
    start = start_from(INPAINT, file, SEED, allow_missing=True)
    for part in ("weight", "bias"):
        grown = start.weights[f"pos_embed_masked_hidden_states.0.proj.{part}"]
        np.testing.assert_array_equal(grown, file[f"pos_embed.proj.{part}"])
    for name in ("pos_embed_masked_hidden_states.1.weight", "pos_embed_mask.1.weight"):
        assert not start.weights[name].any()
    fresh = FreshWeights(INPAINT, SEED)
    np.testing.assert_array_equal(start.weights["pos_embed_mask.0.proj.weight"], fresh["pos_embed_mask.0.proj.weight"])
    assert [line.strip().partition(":")[0] for line in start.report[1:]] == [
        "2 not there, copied from others",
        "4 not there, freshly drawn",
    ]


def test_missing_and_unknown_weights_are_refused_by_name(file: GivenWeights) -> None:
    with pytest.raises(LayoutError, match=r"lacks 6 weights.*pos_embed_mask.*allow_missing"):
        start_from(INPAINT, file, SEED, leave_out=("proj_out.",))
    more = GivenWeights(dict(file) | {"pos_embed_mask.1.weight": np.zeros((2, 2))}, "other.safetensors")
    with pytest.raises(LayoutError, match="holds 1 weights that .* lacks .pos_embed_mask.1.weight"):
        start_from(LAYOUT, more, SEED, allow_missing=True)
    with pytest.raises(LayoutError, match="no weight of .* begins with 'proj_in'"):
        start_from(LAYOUT, file, SEED, leave_out=("proj_in",))


def test_what_is_frozen_must_be_there_and_leave_something_to_train() -> None:
    check_frozen(LAYOUT, ())
    check_frozen(LAYOUT, ("transformer_blocks.", "proj_out."))
    with pytest.raises(LayoutError, match=r"start\.frozen: no weight of .* begins with 'transformer\.'"):
        check_frozen(LAYOUT, ("proj_out.", "transformer."))
    parts = tuple({f"{name.partition('.')[0]}." for name in TINY_WFVAE.layout() if "wavelet" not in name})
    for layout, frozen in ((LAYOUT, ("",)), (TINY_WFVAE.layout(), parts)):
        with pytest.raises(ConfigError, match=r"start\.frozen: names all weights of .* none is left to train"):
            check_frozen(layout, frozen)

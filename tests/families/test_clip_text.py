"""CLIP's text encoder against transformers', and what its config, its shapes and its tokeniser tell."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from family_cases import awake

from duosora.core.errors import ConfigError, MediaError, ShapeError
from duosora.core.io.any_tokenizer import open_tokenizer
from duosora.core.io.clip_tokenizer import ClipTokenizer
from duosora.core.models.by_shapes import seen_by_shapes
from duosora.core.models.clip_text import LARGEST_ID, PRESETS, ClipTextSpec
from duosora.core.pipelines.text import encode_texts
from duosora.core.seam.backend import Backend

SPEC = ClipTextSpec(
    vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
    max_position_embeddings=16, eos_token_id=60,
)  # fmt: skip
POOLED = replace(SPEC, pooled=True)
VARIANTS = {
    "states": SPEC,
    "exact gelu": replace(SPEC, hidden_act="gelu"),
    "pooled": POOLED,
    "pooled at the largest id": replace(POOLED, eos_token_id=LARGEST_ID),
    "projected": replace(POOLED, projection_dim=10),
}
IDS = np.array([[58, 2, 7, 60, 60, 60], [58, 3, 60, 9, 60, 4], [58, 4, 4, 2, 9, 59]])
"""With one end token and padding, with two of them, and with none."""
MASK = np.array([[1, 1, 1, 1, 0, 0], [1] * 6, [1] * 6])
WORDS = Path(__file__).parents[1] / "goldens" / "clip_text" / "tokenizer"


def run(backend: Backend, spec: ClipTextSpec, ids: np.ndarray = IDS, mask: np.ndarray = MASK) -> np.ndarray:
    model = backend.build(spec, awake(spec))
    with backend.inference():
        return backend.to_numpy(model(backend.asarray(ids), backend.asarray(mask)))


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_it_gives_what_transformers_gives(backend: Backend, spec: ClipTextSpec) -> None:
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    made = CLIPTextModelWithProjection if spec.projection_dim else CLIPTextModel
    theirs = made(CLIPTextConfig(**spec.to_config())).eval()
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in awake(spec).items()})
    with torch.no_grad():
        answer = theirs(input_ids=torch.from_numpy(IDS), attention_mask=torch.from_numpy(MASK))
    expected = answer.text_embeds if spec.projection_dim else answer[1 if spec.pooled else 0]
    got = run(backend, spec)
    assert got.shape == tuple(expected.shape)
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=2e-5 * float(expected.abs().max()))


def test_what_stands_behind_a_text_changes_none_of_its_states(backend: Backend) -> None:
    whole, cut = run(backend, SPEC), run(backend, SPEC, IDS[:1, :4], MASK[:1, :4])
    np.testing.assert_allclose(cut[0], whole[0, :4], rtol=0, atol=2e-6 * np.abs(whole).max())


def test_more_tokens_than_positions_are_refused(backend: Backend) -> None:
    ids = np.ones((1, 17), np.int64)
    with pytest.raises(ShapeError, match=r"^17 tokens: the CLIP text encoder takes at most 16; cut the text$"):
        run(backend, SPEC, ids, ids)


@pytest.mark.parametrize("key", ["text_config", "text_config_dict"])
def test_the_config_of_a_whole_clip_is_read(key: str) -> None:
    inner = {key: value for key, value in SPEC.to_config().items() if key != "architectures"}
    other = {"hidden_size": 48} if key == "text_config" else {"text_config": {"hidden_size": 48}}
    config = {"architectures": ["CLIPModel"], "vision_config": {}, **other, key: inner}
    assert ClipTextSpec.from_config(config) == SPEC
    with pytest.raises(ConfigError, match=rf"^config\.json: {key} = 3: needs dict$"):
        ClipTextSpec.from_config({key: 3})


def test_a_projection_is_that_of_its_own_class_only() -> None:
    spec = replace(POOLED, projection_dim=10)
    config = spec.to_config()
    assert ClipTextSpec.from_config({key: value for key, value in config.items() if key != "pooled"}) == spec
    assert ClipTextSpec.from_config(config | {"architectures": ["CLIPTextModel"]}) == POOLED
    with pytest.raises(ConfigError, match="only the vector of a text is projected"):
        ClipTextSpec.from_config(config | {"pooled": False})


@pytest.mark.parametrize("name", ["clip_vit_b_32", "clip_vit_l_14", "clip_vit_bigg_14"])
def test_published_weights_are_known_by_their_shapes(name: str) -> None:
    """A model with and without pooling has the same ones; then it gives states."""
    spec = PRESETS[name]
    shapes = {key: weight.shape for key, weight in spec.layout().items()}
    seen = seen_by_shapes(shapes | {"text_model.embeddings.position_ids": (1, 77)}, "here")
    assert seen is not None
    assert seen.spec == spec


def test_ids_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import CLIPTokenizerFast

    theirs = CLIPTokenizerFast(str(WORDS / "vocab.json"), str(WORDS / "merges.txt"))
    theirs.save_pretrained(tmp_path)
    ours = {"two files": open_tokenizer(WORDS)}
    (tmp_path / "vocab.json").unlink()
    ours["one file"] = open_tokenizer(tmp_path)
    texts = [
        "A small  blue RING's\tmove",
        "",
        "<|endoftext|>Ring <|startoftext|>",
        "<|EndOfText|>",
        "a<|StartOfText|>b",
        "İ ß 42 x_y",
        "猫 é",
    ]
    for how, tokenizer in ours.items():
        assert isinstance(tokenizer, ClipTokenizer)
        for text in (*texts, " ".join(texts) * 9):
            expected = theirs(text, truncation=True, max_length=77)["input_ids"]
            ids, mask, (cut,) = tokenizer.encode([text], 300)
            assert ids.shape == (1, 77), "the most that the models take"
            assert ids[0, : int(mask.sum())].tolist() == expected, how
            assert len(tokenizer.pieces_of(text)) + 2 - cut == len(expected)


def test_a_text_is_filled_up_with_the_token_that_its_settings_say(tmp_path: Path) -> None:
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(WORDS / file, tmp_path)
    assert open_tokenizer(tmp_path).encode(["a"], 4).ids[0, 3] == 573
    for said in ("!", {"content": "!"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": said}))
        assert open_tokenizer(tmp_path).encode(["a"], 4).ids[0, 3] == 0


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("vocab.json", "[]", "vocab.json: needs a JSON object"),
        ("vocab.json", "{", "vocab.json: is no JSON or damaged"),
        ("vocab.json", '{"a": "b"}', "vocab.json: needs a JSON object of tokens and their numbers"),
        ("vocab.json", "{}", "merges.txt: does not fit vocab.json"),
        ("merges.txt", "#version: 0.2\na", r"merges.txt:2: needs two symbols"),
        ("merges.txt", "\ud800", "merges.txt:1: is not UTF-8 text"),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, file: str, text: str, said: str) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(WORDS / name, tmp_path)
    (tmp_path / file).chmod(0o644)
    (tmp_path / file).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(MediaError, match=said) as refused:
        open_tokenizer(tmp_path)
    assert "\n" not in str(refused.value)


def test_half_a_character_is_refused() -> None:
    with pytest.raises(MediaError, match="is not valid text at character 2"):
        open_tokenizer(WORDS).encode(["a \udcff"], 8)


def test_a_text_gives_states_without_padding_or_one_vector(backend: Backend) -> None:
    spec = replace(SPEC, vocab_size=574, eos_token_id=573, max_position_embeddings=77)
    tokenizer, texts = open_tokenizer(WORDS), ["a red ring", "dog", "ring " * 90]
    states, pooled = (
        encode_texts(backend, backend.build(each, awake(each)), tokenizer, texts, 77, quiet=True)
        for each in (spec, replace(spec, pooled=True))
    )
    assert states.cut == pooled.cut == {texts[2]: 15}
    for text in texts:
        assert pooled.states[text].shape == (24,)
        np.testing.assert_array_equal(pooled.states[text], states.states[text][-1])

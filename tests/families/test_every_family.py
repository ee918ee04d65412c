"""What holds for every family, written once: its config, weights, numbers on both backends, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed_specs import ALTERED, NEEDS_NO_EFFECT, NOT_IN_CONFIG, Altered
from family_cases import AUTOENCODERS, CASES, DENOISERS, PRESETS, Case, awake, gradients, outputs, own_outputs
from thread_tensors import on_ranks
from training_cases import Run

from duosora.convert import names as converters
from duosora.convert.commands import convert
from duosora.convert.naming import apply, guess
from duosora.core.converting import Conversion
from duosora.core.errors import ConfigError, DuosoraError, LayoutError
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.layout import GivenWeights
from duosora.core.loading import check_structure
from duosora.core.models.finding import family_of, recognise
from duosora.core.models.kinds import Family
from duosora.core.pipelines.autoencode import DecodeOptions, decode_chunks, encode_chunks
from duosora.core.random import normal
from duosora.core.seam.backend import NAMES, Backend, BlocksOn, get
from duosora.core.seam.ranks import Ranks

OUTPUTS = 2e-5
"""Of the largest value: several times what another order of sums makes of a small model."""
GRADIENTS = 1e-4
"""Of the largest value of each weight's gradient, through the whole model."""
ROUNDING = 1e-7
"""Of the largest gradient: weights that change nothing, such as biases of keys, have no other."""
LENIENT = {
    "clip_text": "configs of transformers tell of writing texts, and those of the whole CLIP of pictures",
    "t5": "configs of transformers tell much of its decoder and of writing texts",
}
"""Families that leave keys alone which they do not know."""
ODD = [
    *("0", "-1", "2.5", "1000000", "1" + "0" * 300, "1e300", "1e400", "-1e400", "NaN", "true", "null", '""', '"8"'),
    *('"\\ud800"', "[]", "{}", "[null]", "[[1]]", "[1, 1e400, NaN]", "[" * 300 + "]" * 300, f"[{'1,' * 9999}1]"),
    f'"{"a" * 5000}"',
]
FURTHER_KEYS = ("architectures", "_class_name", "dtype", "out_channels", "unheard_of")
of_presets = pytest.mark.parametrize(("family", "preset"), PRESETS, ids=[f"{f.name}-{name}" for f, name in PRESETS])


def near(got: np.ndarray, expected: np.ndarray, name: str = "", limit: float = OUTPUTS) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=limit * np.abs(expected).max(), err_msg=name)


@of_presets
def test_config_there_and_back(family: Family, preset: str) -> None:
    spec = family.presets[preset]
    config = json.loads(json.dumps(spec.to_config()))
    assert family_of(config, "config.json") is family
    assert family.spec.from_config(config) == spec
    unnamed = {key: value for key, value in config.items() if key not in ("_class_name", "architectures")}
    assert family_of(unnamed, "config.json") is family, "its telling keys"


@of_presets
def test_models_of_both_backends_have_the_weights_of_the_layout_in_one_order(family: Family, preset: str) -> None:
    spec = family.presets[preset]
    torchs, mindspores = (get(name, "cpu").structure(spec) for name in NAMES)
    check_structure(spec.layout(), torchs)
    assert dict(mindspores) == dict(torchs)


def test_both_backends_give_the_same(case: Case) -> None:
    torchs, mindspores = (own_outputs(case.name, name) for name in NAMES)
    assert torchs.keys() == mindspores.keys()
    for name, expected in torchs.items():
        assert expected.dtype == mindspores[name].dtype == np.float32
        near(mindspores[name], expected, name)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_a_reconstruction_is_what_decoding_makes_of_encoding(backend: Backend, name: str) -> None:
    made = own_outputs(name, backend.name)
    for size in AUTOENCODERS[name].sizes:
        near(made[f"reconstruction of {size}"], made[f"pixels of {size}"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.is_trained and case.spec.layout()])
def test_gradients_of_both_backends_are_the_same(name: str) -> None:
    torchs, mindspores = (gradients(CASES[name], backend) for backend in NAMES)
    assert torchs.keys() == mindspores.keys()
    largest = max(np.abs(gradient).max() for gradient in torchs.values())
    for weight, gradient in torchs.items():
        limit = GRADIENTS * np.abs(gradient).max() + ROUNDING * largest
        np.testing.assert_allclose(mindspores[weight], gradient, rtol=0, atol=limit, err_msg=weight)


TRAINED_ON = [pytest.param(name, marks=[pytest.mark.slow] * (name != "torch")) for name in NAMES]


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("backend", TRAINED_ON, indirect=True)
def test_a_run_goes_on_as_if_it_had_not_been_ended(backend: Backend, name: str, tmp_path: Path) -> None:
    whole = Run(backend, DENOISERS[name], Ranks())
    whole.step(0)
    saved = whole.trainer.saved(is_copy=True)
    saved.save(tmp_path)
    report = whole.step(1)
    again = Run(backend, DENOISERS[name], Ranks(), GivenWeights(dict(saved.weights(use_ema=False)), "saved"))
    again.trainer.load(tmp_path)
    again.trainer.load_average(saved.weights(use_ema=True))
    assert again.step(1) == report
    for use_ema in (False, True):
        expected, found = (run.trainer.saved().weights(use_ema) for run in (whole, again))
        assert {each: found[each].tobytes() for each in found} == {each: expected[each].tobytes() for each in expected}


@pytest.mark.parametrize("name", AUTOENCODERS)
@pytest.mark.parametrize("wanted", [1, 2, 5])
@pytest.mark.parametrize("backend", TRAINED_ON, indirect=True)
def test_chunks_give_what_one_piece_gives_or_are_refused(backend: Backend, name: str, wanted: int) -> None:
    case = AUTOENCODERS[name]
    spec, size = case.spec, case.sizes[0]
    if not _works_in(spec, size.frames, wanted):
        assert not spec.streams_exactly
        with pytest.raises(ConfigError, match="chunk"):
            next(spec.pixel_chunks(wanted))
        return
    video = spec.compression.video(size)
    model = backend.build(spec, awake(spec))
    clip, latents = np.tanh(normal((1, 3, *video), 4, "video")), normal((1, spec.latent_channels, *size), 4, "z")
    with backend.inference():
        encoded = model.encode(backend.asarray(clip))
        moments = encoded.moments[spec.posteriors[-1]] if spec.posteriors else encoded.latents
        pixels = model.decode(backend.asarray(latents), video.frames)
    near(encode_chunks(backend, model, spec, clip, wanted), backend.to_numpy(moments))
    parts = list(decode_chunks(backend, model, spec, latents, DecodeOptions(wanted), num_frames=video.frames))
    near(np.concatenate(parts, axis=2), backend.to_numpy(pixels))
    assert len(parts) > 1


def _works_in(spec: Any, latent_frames: int, wanted: int) -> bool:
    try:
        spec.chunks(latent_frames, wanted)
    except ConfigError as error:
        return "chunk" not in str(error)
    return True


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", TRAINED_ON, indirect=True)
def test_ranks_that_share_the_tokens_predict_what_one_does(backend: Backend, name: str, size: int) -> None:
    case = DENOISERS[name]

    for got in on_ranks(size, backend, lambda group: outputs(case, backend.name, group=group)):
        for what, expected in own_outputs(name, backend.name).items():
            near(got[what], expected, what)


APART: dict[str, BlocksOn] = {"denoiser": "host", "text_encoder": "file"}
"""Where the blocks of a kind can be."""


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.family.kind in APART])
@pytest.mark.parametrize("backend", TRAINED_ON, indirect=True)
def test_blocks_that_come_when_they_are_needed_give_the_same_bits(backend: Backend, name: str) -> None:
    case = CASES[name]
    got = outputs(case, backend.name, blocks_on=APART[case.family.kind])
    for what, expected in own_outputs(name, backend.name).items():
        np.testing.assert_array_equal(got[what], expected)


def test_ranks_that_share_the_tokens_each_have_blocks_on_the_host() -> None:
    case, backend = DENOISERS["opensora_t2v-tiny"], get("torch", "cpu")
    whole = on_ranks(2, backend, lambda group: outputs(case, "torch", group=group))
    apart = on_ranks(2, backend, lambda group: outputs(case, "torch", group=group, blocks_on="host"))
    for got, expected in zip(apart, whole, strict=True):
        for what, values in expected.items():
            np.testing.assert_array_equal(got[what], values)


@of_presets
def test_converters_leave_its_names_alone_and_know_them(family: Family, preset: str) -> None:
    names = list(family.presets[preset].layout())
    found, unknown = apply(converters.NAMES[family.name].rules, names, converters.NAMES[family.name].patterns())
    assert not unknown
    assert {new: origin.names for new, origin in found.origins.items()} == {name: (name,) for name in names}
    if names:
        assert guess(names) == (family.name, len(names))


def test_conversion_there_and_back(folder: Path, tmp_path: Path) -> None:
    between, back = tmp_path / "between.ckpt", tmp_path / "back"
    convert(Conversion(source=folder, target=between))
    convert(Conversion(source=between, target=back))
    assert _bits_of(back) == _bits_of(folder)


def _bits_of(folder: Path) -> dict[str, bytes]:
    """Every tensor of a folder, bit for bit."""
    reader = open_weights(folder)
    return {name: reader[name].tobytes() for name in reader}


@pytest.fixture
def folder(one: Case, tmp_path: Path) -> Path:
    """A case as a folder of the hub's form."""
    if not one.spec.layout():
        pytest.skip("it has no weights that a folder could hold")
    held = tmp_path / "model"
    save_weights(held, awake(one.spec))
    (held / "config.json").write_text(json.dumps(one.spec.to_config()))
    return held


MISSING: list[tuple[str, Callable[[np.ndarray], dict[str, np.ndarray]]]] = [
    ("1 missing (", lambda array: {}),
    ("1 mis-shaped (", lambda array: {"": array[:1]}),
    ("1 unexpected (", lambda array: {"": array, ".surprise": array}),
    ("hold no floating-point numbers (", lambda array: {"": array.astype(np.int8)}),
]


@pytest.mark.parametrize(("said", "change"), MISSING, ids=["missing", "of another shape", "one too many", "integers"])
def test_weights_that_do_not_fit_are_told_by_name_before_they_are_loaded(
    one: Case, folder: Path, said: str, change: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> None:
    recognise(folder).check()
    weights = dict(awake(one.spec))
    name = max(weights, key=lambda each: len(weights[each].shape) * (len(weights[each]) > 1))
    tensor = weights.pop(name)
    rest = {name + more: array for more, array in change(tensor).items()}
    save_weights(folder, weights | rest, overwrite=True)
    with pytest.raises(LayoutError) as refused:
        recognise(folder).check()
    assert str(refused.value).startswith(str(folder))
    assert said in str(refused.value)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_key_that_nobody_knows_is_refused(one: Case) -> None:
    config = one.spec.to_config() | {"surprise": 3}
    if one.family.name in LENIENT:
        assert one.family.spec.from_config(config) == one.spec
        return
    with pytest.raises(ConfigError, match=r"^here/config\.json: surprise: unknown key"):
        one.family.spec.from_config(config, "here/config.json")


def test_an_odd_value_is_read_or_refused_in_one_line(one: Case, tmp_path: Path) -> None:
    config = one.spec.to_config()
    inner = [(key, name) for key, value in config.items() if isinstance(value, dict) for name in value]
    for path in (*((key,) for key in (*config, *FURTHER_KEYS)), *inner):
        for odd in ODD:
            said = _refusal(tmp_path, config, path, odd)
            assert not said or said.startswith(f"{tmp_path / 'config.json'}: "), (path, odd)
            assert "\n" not in said
            assert len(said) < 600


def _refusal(folder: Path, config: dict[str, Any], path: tuple[str, ...], odd: str) -> str:
    """What is said of a config.json in which a key has a value that is written as it is; nothing if it is read."""
    *above, key = path
    changed = json.loads(json.dumps(config))
    (changed[above[0]] if above else changed)[key] = "ODD"
    (folder / "config.json").write_text(json.dumps(changed).replace('"ODD"', odd))
    try:
        dict(recognise(folder).layout)
    except DuosoraError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("altered", ALTERED, ids=str)
def test_every_field_of_a_spec_has_an_effect(altered: Altered) -> None:
    case, spec = altered.case, altered.spec
    if altered.field not in NOT_IN_CONFIG:
        assert case.family.spec.from_config(json.loads(json.dumps(spec.to_config()))) == spec
    for backend in NAMES:
        check_structure(spec.layout(), get(backend, "cpu").structure(spec))
    if altered.shows_in_the_spec:
        assert altered.field not in NEEDS_NO_EFFECT
        return
    before, after = own_outputs(case.name, "torch"), outputs(case, "torch", spec)
    changes = [np.abs(after[name] - values).max() / np.abs(values).max() for name, values in before.items()]
    assert (max(changes) > OUTPUTS) != (altered.field in NEEDS_NO_EFFECT)

"""The golden cases notice one-line faults: each is put into a copy of the sources, and `duosora check` has to fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests/goldens"


class Fault(NamedTuple):
    """A line as it is, as it is made wrong, and the golden case that has to notice."""

    file: str
    right: str
    wrong: str
    case: str


TORCH = "backends/torch"
MINDSPORE = "backends/mindspore"
FAULTS = {
    "a variance taken for a deviation": Fault(
        f"{TORCH}/posteriors.py", "(0.5 * log_variance).exp()", "log_variance.exp()", "loss/vae_gan"
    ),
    "wavelet loss without the level-1 sum": Fault(
        f"{TORCH}/models/wfvae.py",
        '"wavelet": (encoder_bands, decoder_bands)',
        '"wavelet": ((encoder_bands[0] * 1.01, encoder_bands[1]), decoder_bands)',
        "loss/vae_gan",
    ),
    "adversarial loss weighed the other way round": Fault(
        f"{TORCH}/autoencoder_step.py",
        "pull / (theirs + SMALLEST_NORM)",
        "theirs / (pull + SMALLEST_NORM)",
        "loss/vae_gan",
    ),
    "norm eps of the transformer": Fault(
        f"{TORCH}/models/opensora_t2v.py", "NORM_OUT_EPS = 1e-6", "NORM_OUT_EPS = 1e-5", "t2v/small_activations"
    ),
    "norm eps of the autoencoder": Fault(f"{TORCH}/models/wfvae.py", "EPS = 1e-6", "EPS = 1e-4", "wfvae/gn_nearest"),
    "exact instead of rounded Haar taps": Fault(
        "core/maths/haar.py", "TAP_3D = 0.3536", "TAP_3D = 8**-0.5", "wfvae/wrapper_scale_shift"
    ),
    "Haar axes swapped": Fault(
        f"{TORCH}/video.py",
        "_split_pairs(_split_pairs(x.float(), 3), 4)",
        "_split_pairs(_split_pairs(x.float(), 4), 3)",
        "wfvae/haar",
    ),
    "cache of the stream off by one": Fault(
        f"{TORCH}/streaming.py",
        "return num_outputs * stride, num_frames",
        "return num_outputs * stride - 1, num_frames - 1",
        "wfvae/tiling_trilinear",
    ),
    "another frame kept for doubling": Fault(
        f"{TORCH}/streaming.py",
        "self.keep(layer, frames, frames.shape[2] - 1, frames.shape[2])",
        "self.keep(layer, frames, 0, 1)",
        "wfvae/tiling_trilinear",
    ),
    "frames interpolated towards the wrong side": Fault(
        f"{TORCH}/video.py",
        "torch.lerp(x, before, 0.25), torch.lerp(x, after, 0.25)",
        "torch.lerp(x, after, 0.25), torch.lerp(x, before, 0.25)",
        "wfvae/tiling_trilinear",
    ),
    "latents shifted after scaling": Fault(
        "core/pipelines/autoencode.py",
        "(latents - _per_channel(spec.shift)) * _per_channel(spec.scale)",
        "latents * _per_channel(spec.scale) - _per_channel(spec.shift)",
        "wfvae/wrapper_scale_shift",
    ),
    "RoPE halves not exchanged": Fault(
        f"{TORCH}/operators.py", "torch.stack((second, first), -2)", "torch.stack((first, second), -2)", "t2v/rope3d"
    ),
    "sines before cosines": Fault(
        f"{TORCH}/layers.py",
        "cat([angles.cos(), angles.sin()], 1)",
        "cat([angles.sin(), angles.cos()], 1)",
        "t2v/full_attn",
    ),
    "mask polarity": Fault(
        "core/maths/skiparse.py", "blocks = (mask > 0)", "blocks = (mask <= 0)", "t2v/skiparse_padmask"
    ),
    "skiparse kinds exchanged": Fault(
        "core/models/opensora_t2v.py",
        '"group" if layer % 2 else "single"',
        '"single" if layer % 2 else "group"',
        "t2v/skiparse_32layers",
    ),
    "GELU by the error function": Fault(
        f"{TORCH}/operators.py", '{"gelu_tanh": "tanh"', '{"gelu_tanh": "none"', "t2v/full_attn"
    ),
    "norm before cross-attention": Fault(
        f"{TORCH}/models/opensora_t2v.py", "self.attn2(x, keys", "self.attn2(self.norm2(x), keys", "t2v/full_attn"
    ),
    "T5 attention scaled": Fault(f"{TORCH}/attention.py", "bias, scale=1.0)", "bias)", "mt5/tiny"),
    "norm eps of the transformer, MindSpore": Fault(
        f"{MINDSPORE}/models/opensora_t2v.py", "NORM_OUT_EPS = 1e-6", "NORM_OUT_EPS = 1e-5", "t2v/small_activations"
    ),
    "mask polarity, MindSpore": Fault(
        f"{MINDSPORE}/attention.py", "ops.logical_not(keep), _LEFT_OUT", "keep, _LEFT_OUT", "t2v/skiparse_padmask"
    ),
    "guidance against the prompt": Fault(
        "core/pipelines/denoise.py",
        "guide(conditional, unconditional",
        "guide(unconditional, conditional",
        "pipeline/t2v",
    ),
    "noise added with the wrong strength": Fault(
        "core/samplers/euler_ancestral.py",
        "x + self._sigma_up[i] * noise",
        "x + self._strides[i] * noise",
        "pipeline/t2v",
    ),
    "a learned range taken for twice as wide": Fault(
        "core/samplers/iddpm.py", "(largest - least) / 4.0", "(largest - least) / 2.0", "iddpm/v10_v1.0.0"
    ),
    "a bound with the variance's range moved": Fault(
        f"{TORCH}/variational_bound.py", "(variance + 1.0) * 0.5", "variance * 0.5", "iddpm/training_v1.2.0"
    ),
    "a bound with the variance's range moved, MindSpore": Fault(
        f"{MINDSPORE}/variational_bound.py", "(variance + 1.0) * 0.5", "variance * 0.5", "iddpm/training_v1.2.0"
    ),
    "squares of tokens read across": Fault(
        f"{TORCH}/models/pixart.py", "permute(0, 1, 3, 2, 4, 5)", "permute(0, 1, 3, 4, 2, 5)", "pixart/sigma_kv"
    ),
    "frames told before the first block": Fault(
        f"{TORCH}/models/dit.py", "SECOND_BLOCK = 1", "SECOND_BLOCK = 0", "latte/class"
    ),
}


def check(sources: Path, case: str, backend: str = "torch") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(sources / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "duosora", "check", str(GOLDENS / case), "--backend", backend]
    return subprocess.run(command, env=environment, cwd=sources, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package."""
    copy = tmp_path_factory.mktemp("sources")
    for folder in ("core", "backends", "convert", "src"):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def test_the_copy_is_what_is_checked_and_passes(sources: Path) -> None:
    outcome = check(sources, "t2v/rope3d")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_noticed(sources: Path, fault: Fault) -> None:
    file = sources / fault.file
    right = file.read_text()
    assert right.count(fault.right) == 1, f"{fault.file} no longer holds {fault.right!r} once"
    file.write_text(right.replace(fault.right, fault.wrong))
    try:
        backend = "mindspore" if fault.file.startswith(MINDSPORE) else "torch"
        outcome = check(sources, fault.case, backend)
    finally:
        file.write_text(right)
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    assert "FAIL" in outcome.stdout

"""What MindSpore has no way for on many ranks is refused in one line."""

import pytest

from duosora.core.errors import ConfigError
from duosora.core.layout import FreshWeights
from duosora.core.models.opensora_t2v import OpenSoraT2VSpec
from duosora.core.seam.backend import get
from duosora.core.seam.group import Alone
from duosora.core.seam.ranks import ParallelPlan, Ranks
from duosora.core.seam.training import TrainOptions

SPEC = OpenSoraT2VSpec(
    num_layers=1, num_attention_heads=1, attention_head_dim=6, in_channels=4, out_channels=4, caption_channels=4
)


class Two(Alone):
    """A group that says it has two ranks."""

    size = 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (TrainOptions(zero=3), "parallel.zero = 3: MindSpore has 0 and 2 here"),
        (TrainOptions(engine="deepspeed"), "parallel.engine = deepspeed is for torch; leave it out"),
    ],
)
def test_what_mindspore_does_not_split_is_refused_with_what_there_is(options: TrainOptions, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        get("mindspore", "cpu").train_denoiser(
            SPEC, FreshWeights(SPEC.layout(), 0), options, Ranks(ParallelPlan(2), world=Two())
        )


def test_graphs_of_shared_tokens_are_refused() -> None:
    backend, weights = get("mindspore", "cpu"), FreshWeights(SPEC.layout(), 0)
    reason = "compile = true: MindSpore's graphs share no tokens"
    with pytest.raises(ConfigError, match=reason):
        backend.build(SPEC, weights, compile=True, sequence=Two())
    ranks = Ranks(ParallelPlan(sequence=2), world=Two(), sequence=Two())
    with pytest.raises(ConfigError, match=reason):
        backend.train_denoiser(SPEC, weights, TrainOptions(compile=True), ranks)

"""Which dtype a run computes in."""

from types import SimpleNamespace
from typing import Any

import pytest

from duosora.core.config.training import ComputeSettings
from duosora.core.errors import ConfigError
from duosora.core.pipelines.settings import chosen_dtype, compute_dtype

CPU: Any = SimpleNamespace(device="cpu", on_host=True, slow_dtypes=("fp16",))
GPU: Any = SimpleNamespace(device="cuda", on_host=False, slow_dtypes=())


def test_a_dtype_that_is_tens_of_times_slower_is_refused_with_what_to_do() -> None:
    told = (
        "backend.dtype.vae = fp16: on cpu that is 40 to 100 times slower than fp32; use fp32 or bf16, or set "
        "backend.allow_slow_dtype=true to have it all the same"
    )
    with pytest.raises(ConfigError) as refused:
        chosen_dtype(CPU, "fp16", "backend.dtype.vae", allows_slow=False)
    assert str(refused.value) == told
    with pytest.raises(ConfigError, match="^dtype = fp16: .* or set allow_slow_dtype=true"):
        chosen_dtype(CPU, "fp16", "dtype", allows_slow=False)
    assert chosen_dtype(CPU, "fp16", "backend.dtype.vae", allows_slow=True) == "fp16"
    assert chosen_dtype(GPU, "fp16", "backend.dtype.vae", allows_slow=False) == "fp16"
    assert chosen_dtype(CPU, "bf16", "backend.dtype.vae", allows_slow=False) == "bf16"
    assert chosen_dtype(CPU, None, "backend.dtype.vae", allows_slow=False) == "fp32"


@pytest.mark.parametrize("name", ["dtype", "frozen_dtype"])
def test_so_it_is_in_training_for_the_model_and_for_frozen_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=f"compute.{name} = fp16: .* compute.allow_slow_dtype=true"):
        compute_dtype(CPU, ComputeSettings(**{name: "fp16"}))
    compute_dtype(CPU, ComputeSettings(**{name: "fp16", "allow_slow_dtype": True}))

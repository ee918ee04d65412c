"""Weights of narrower dtypes than a model computes in."""

import ml_dtypes
import numpy as np
import pytest

from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models import t5
from duosora.core.seam.backend import Backend


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_weights_of_8_bits_compute_as_the_same_numbers_in_32(backend: Backend, dtype: type) -> None:
    fresh = FreshWeights(t5.TINY.layout(), 0)
    narrow = {name: fresh[name].astype(dtype) for name in fresh}
    wide = {name: array.astype(np.float32) for name, array in narrow.items()}
    ids = np.arange(2, 34).reshape(2, 16)
    outputs = []
    for weights in (narrow, wide):
        model = backend.build(t5.TINY, GivenWeights(weights, "weights"))
        with backend.inference():
            outputs.append(backend.to_numpy(model(*map(backend.asarray, (ids, np.ones_like(ids))))))
    assert outputs[0].dtype == np.float32
    np.testing.assert_array_equal(*outputs)

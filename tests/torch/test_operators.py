"""Operations that a CPU does in a way of its own."""

import pytest
import torch

from duosora.backends.torch import operators


def test_clips_are_convolved_by_onednn_save_where_the_plain_way_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    own, calls = torch.mkldnn_convolution, []

    def counted(*arguments: object) -> torch.Tensor:
        calls.append(arguments)
        return own(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "mkldnn_convolution", counted)
    draw = torch.Generator().manual_seed(0)
    clip, weight, bias = (torch.randn(shape, generator=draw) for shape in ((1, 4, 5, 9, 9), (8, 4, 3, 3, 3), (8,)))
    results = [operators.convolution(clip, weight, bias, (1, 2, 2), 1)]
    with operators.plain():
        results.append(operators.convolution(clip, weight, bias, (1, 2, 2), 1))
    assert len(calls) == 1
    torch.testing.assert_close(*results)


def test_padding_goes_behind_an_axis() -> None:
    x = torch.ones(2, 3, 4)
    padded = operators.pad_end(x, 1, 2)
    assert padded.shape == (2, 5, 4)
    assert padded[:, :3].eq(1).all()
    assert padded[:, 3:].eq(0).all()
    assert operators.pad_end(x, 1, 0) is x

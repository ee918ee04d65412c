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


@pytest.mark.parametrize("activation", ["", "gelu_tanh", "gelu_erf"])
@pytest.mark.parametrize("bias", [True, False])
def test_onednn_maps_linearly_and_activates_in_one_pass(
    activation: str, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, calls = operators._ONEDNN_LINEAR, []

    def counted(*arguments: object) -> torch.Tensor:
        calls.append(arguments)
        return own(*arguments)

    monkeypatch.setattr(operators, "_ONEDNN_LINEAR", counted)
    draw = torch.Generator().manual_seed(0)
    x, weight, shift = (torch.randn(shape, generator=draw) for shape in ((2, 70, 96), (128, 96), (128,)))
    weight = weight / 10
    own_shift = shift if bias else None
    results = [operators.linear(x, weight, own_shift, activation)]
    with operators.plain():
        results.append(operators.linear(x, weight, own_shift, activation))
    assert len(calls) == 1
    torch.testing.assert_close(*results, rtol=0, atol=3e-6)
    assert operators.linear(x, weight.requires_grad_(), own_shift, activation).requires_grad
    assert len(calls) == 1  # it would keep nothing for the gradient


def test_pieces_of_tokens_give_what_all_give() -> None:
    x = torch.randn(2, 700, 8, generator=torch.Generator().manual_seed(0))
    seen = []

    def widened(rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows.shape[:-1].numel())
        return torch.cat([rows, 2 * rows], -1)

    with torch.no_grad():
        pieces = operators.in_pieces(widened, x)
    assert seen == [512, 512, 376]
    torch.testing.assert_close(pieces, operators.in_pieces(widened, x), rtol=0, atol=0)
    assert seen[3:] == [1400]  # where a gradient may be asked for


def test_padding_goes_behind_an_axis() -> None:
    x = torch.ones(2, 3, 4)
    padded = operators.pad_end(x, 1, 2)
    assert padded.shape == (2, 5, 4)
    assert padded[:, :3].eq(1).all()
    assert padded[:, 3:].eq(0).all()
    assert operators.pad_end(x, 1, 0) is x


@pytest.mark.slow
def test_a_compiled_graph_maps_linearly_by_what_its_compiler_knows() -> None:
    """Inductor stops at oneDNN's map unless it is one of its own making."""
    graphs: list[str] = []

    def noted(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(module.code)
        return module

    x, weight = torch.ones(2, 70, 96), torch.ones(128, 96)
    with torch.inference_mode():
        operators.linear(x, weight, None, "gelu_tanh")
        torch.compile(operators.linear, backend=noted)(x, weight, None, "gelu_tanh")
    assert graphs
    assert "mkldnn" not in "".join(graphs)

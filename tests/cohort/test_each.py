"""One linear map a client: products and gradients are those of the clients one by one."""

import pytest
import torch

from fedtune.cohort.each import each_linear, each_one


@pytest.mark.parametrize("spans", [(3, 3, 3), (1, 4, 2), (0, 5, 1), (6,)])
def test_products_and_gradients_are_each_ones_own(spans: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(sum(spans), 4, generator=draw, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(len(spans), 5, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    parts = zip(x.split(list(spans)), weights, strict=True)
    expected = torch.cat([part @ weight.T for part, weight in parts])
    found = each_linear(x, weights, spans)
    torch.testing.assert_close(found, expected)
    along = torch.randn(found.shape, generator=draw, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(found, (x, weights), along), torch.autograd.grad(expected, (x, weights), along), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_numbers_that_are_not_finite_stay_with_their_client() -> None:
    for spans in ((2, 2), (1, 3)):
        weights = torch.stack([torch.full((3, 3), torch.nan), torch.eye(3)])
        found = each_linear(torch.ones(4, 3), weights, spans)
        assert bool(found[: spans[0]].isnan().all())
        assert torch.equal(found[spans[0] :], torch.ones(spans[1], 3))


def test_under_autocast_products_have_its_dtype() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert each_linear(torch.ones(4, 3), torch.ones(2, 5, 3), (2, 2)).dtype == torch.bfloat16


def test_each_ones_vector_stands_beside_its_tokens() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert each_one(values, (2, 2)).tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
    assert each_one(values, (0, 3)).tolist() == [[3, 4]] * 3

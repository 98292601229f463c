"""The parts in plain PyTorch, against values by hand; `test_torch_models.py` has the authors' numbers."""

import pytest

from tpr_jax.models.petl_config import LoraMoe, Moe

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def test_mixture_adds_each_token_of_the_chosen_experts(torch):
    """Compares with all experts computed for all tokens."""
    from tpr_jax.bench import torch_parts

    torch.manual_seed(0)
    mixture = torch_parts.Mixture(Moe("beside_mlp", num_experts=3, top_k=2, reduction=2, scale=4.0), 8)
    torch.nn.init.normal_(mixture.input_gate.weight)
    x = torch.randn(2, 5, 8)
    found = mixture(x)
    for row, found_row in zip(x.reshape(-1, 8), found.reshape(-1, 8), strict=True):
        u = mixture.ln_3(row)
        logits = 0.5 * mixture.input_gate.weight @ u + 0.5 * mixture.task_gate.weight @ mixture.task_param
        best = sorted(range(3), key=lambda i: -float(logits[i]))[:2]
        weights = torch.exp(logits[best]) / torch.exp(logits[best]).sum()
        expected = sum(w * mixture.experts[i](u) for w, i in zip(weights, best, strict=True))
        torch.testing.assert_close(found_row, 4.0 * expected)


def test_balance_of_a_uniform_router(torch):
    """Equal logits: P is 1/E for each expert, and C, which sums to k, does not matter."""
    from tpr_jax.bench import torch_parts

    mixture = torch_parts.Mixture(Moe("beside_mlp", num_experts=4, top_k=2, reduction=2), 8)
    torch.nn.init.zeros_(mixture.input_gate.weight)
    torch.nn.init.zeros_(mixture.task_gate.weight)
    mixture(torch.randn(3, 5, 8))
    assert float(mixture.balance) == pytest.approx(2 / 4)


def test_prefix_mask(torch):
    from tpr_jax.bench import torch_parts

    found = torch_parts.prefix_mask(3, 5, torch.device("cpu"))
    assert found.int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_insert(torch):
    from tpr_jax.bench import torch_parts

    x, tokens = torch.arange(8.0).reshape(2, 4, 1), torch.tensor([[90.0], [91.0]])
    assert torch_parts.insert(x, tokens, 1)[1, :, 0].tolist() == [4, 90, 91, 5, 6, 7]
    assert torch_parts.insert(x, tokens, 1, replaced=2)[1, :, 0].tolist() == [4, 90, 91, 7]
    assert torch_parts.insert(x, tokens, 4)[0, :, 0].tolist() == [0, 1, 2, 3, 90, 91]


def test_rejects_a_part_without_a_pytorch_version(torch):
    from tpr_jax.bench import torch_parts

    assert torch_parts.make_part(None, 8) is None
    with pytest.raises(TypeError, match="no PyTorch version of LoraMoe"):
        torch_parts.make_part(LoraMoe(), 8)

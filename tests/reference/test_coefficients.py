from __future__ import annotations

import math

import torch

from dynconv import reference


def test_the_oracle_is_the_branch_of_drt_by_hand() -> None:
    x = torch.tensor([[[[1.0, 3.0]], [[-2.0, 0.0]]]], dtype=torch.float64)  # means 2 and -1
    w1 = torch.tensor([[1.0, 1.0], [0.0, 2.0]], dtype=torch.float64)  # 1 and -2, which ReLU cuts to 0
    w2 = torch.tensor([[2.0, 7.0], [0.0, 7.0], [1.0, 7.0], [-1.0, 7.0]], dtype=torch.float64)  # z = 2, 0, 1, -1
    pi, s = reference.coefficients(x, w1, w2, num_bases=2, num_scales=2, temperature=2.0)
    first = math.e / (math.e + 1)  # softmax(2 / 2, 0 / 2)
    torch.testing.assert_close(pi, torch.tensor([[first, 1 - first]], dtype=torch.float64))
    sigmoid = [1 / (1 + math.exp(-z)) for z in (1.0, -1.0)]
    torch.testing.assert_close(s, 1 + torch.tensor([sigmoid], dtype=torch.float64))

    options = {"num_bases": 0, "num_scales": 4, "scale_activation": "hard"}
    pi, s = reference.coefficients(x, w1, w2, **options)
    assert pi is None
    torch.testing.assert_close(s, torch.tensor([[5 / 3, 1.0, 4 / 3, 2 / 3]], dtype=torch.float64))

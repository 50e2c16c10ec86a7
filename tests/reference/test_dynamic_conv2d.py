from __future__ import annotations

import pytest
import torch
from ops.cases import Case, run, tensors
from torch import Tensor

from dynconv import reference


def naive(x: Tensor, weight: Tensor | None, bias: Tensor | None, case: Case, **mixing: Tensor | None) -> Tensor:
    """The paper's equations 2 to 5: one kernel per sample, basis after basis, the centre tap by its index."""
    rows = []
    for b in range(case.batch):
        static = torch.zeros(case.outputs, case.inputs // case.groups, case.kernel, case.kernel, dtype=torch.float64)
        kernel = static if weight is None else weight.clone()
        if mixing["scale"] is not None:
            for channel in range(case.outputs):
                kernel[channel] = kernel[channel] * mixing["scale"][b, channel]
        for i in range(0 if mixing["basis"] is None else 3):
            phi = mixing["basis"][i * case.outputs : (i + 1) * case.outputs]
            if case.basis == case.kernel:
                kernel = kernel + mixing["coefficients"][b, i] * phi
            else:
                kernel[:, :, case.kernel // 2, case.kernel // 2] += mixing["coefficients"][b, i] * phi[:, :, 0, 0]
        rows.append(torch.conv2d(x[b : b + 1], kernel, bias, **case.geometry))
    return torch.cat(rows)


@pytest.mark.parametrize(
    "case",
    [
        Case(),
        Case(basis=0, scale=True),
        Case(scale=True, stride=(2, 1), padding=(1, 0)),
        Case(basis=3, scale=True, groups=2, dilation=(2, 1)),
        Case(kernel=5, groups=2),
        Case(kernel=1),
        Case(basis=3, static=False),
    ],
    ids=str,
)
def test_the_oracle_is_a_loop_over_samples_of_static_convolutions(case: Case) -> None:
    given = {name: None if t is None else t.detach() for name, t in tensors(case).items()}
    mixing = {name: given[name] for name in ("scale", "basis", "coefficients")}
    expected = naive(given["x"], given["weight"], given["bias"], case, **mixing)
    actual = run(reference.dynamic_conv2d, given, case)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)

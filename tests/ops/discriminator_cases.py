"""Problems for the feature-gradient norms, every option in small, odd sizes, from slices of poisoned buffers; and their
comparison with the oracle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from tolerances import assert_agrees
from torch import Tensor

from dynconv import reference
from dynconv.functional import feature_gradient_norms

NAN = float("nan")


@dataclass(frozen=True)
class Case:
    """Shapes and options of one problem; ``void`` is the share of pairs with weight 0, ``shared`` counts layers, whose
    masks are shared too unless each discriminator has its ``own_masks``."""

    num: int = 4
    batch: int = 7
    features: int = 6
    hidden: tuple[int, ...] = (9, 5)
    shared: int = 0
    void: float = 0.0
    biases: bool = True
    dropout: bool = False
    own_masks: bool = False
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "three layers": Case(),
    "two layers": Case(hidden=(9,)),
    "linear": Case(hidden=()),
    "four layers": Case(hidden=(9, 5, 8)),
    "no bias": Case(biases=False),
    "leaky": Case(options={"activation": "leaky_relu", "negative_slope": 0.2}),
    "leaky, dropout": Case(dropout=True, void=0.5, options={"activation": "leaky_relu"}),
    "dropout": Case(dropout=True),
    "void pairs": Case(void=0.6, dropout=True),
    "void pairs, two layers": Case(void=0.6, hidden=(9,)),
    "void pairs, linear": Case(void=0.6, hidden=()),
    "all void": Case(void=1.0),
    "one discriminator": Case(num=1, void=0.3, dropout=True),
    "one sample": Case(batch=1),
    "one feature": Case(features=1, hidden=(1, 3)),
    "no sample": Case(batch=0, dropout=True),
    "shared layer": Case(shared=1, dropout=True),
    "shared layers, void pairs": Case(shared=2, void=0.6, dropout=True),
    "shared layers, own masks": Case(shared=2, void=0.6, dropout=True, own_masks=True),
    "one shared discriminator": Case(num=1, shared=1),
}


@dataclass
class Given:
    """The tensors of one problem; ``leaves`` are those with gradients."""

    features: Tensor
    weights: list[Tensor]
    biases: list[Tensor | None]
    targets: Tensor
    sample_weights: Tensor
    masks: list[Tensor] | None

    @property
    def leaves(self) -> list[Tensor]:
        return [self.features, *self.weights, *(bias for bias in self.biases if bias is not None)]

    def to(self, dtype: torch.dtype) -> Given:
        """The same values in another dtype, as fresh leaves; targets and sample weights as they are."""

        def leaf(tensor: Tensor) -> Tensor:
            return tensor.detach().to(dtype).requires_grad_()

        return Given(
            leaf(self.features),
            [leaf(weight) for weight in self.weights],
            [None if bias is None else leaf(bias) for bias in self.biases],
            self.targets,
            self.sample_weights.to(dtype) if dtype == torch.float64 else self.sample_weights,
            None if self.masks is None else [mask.to(dtype) for mask in self.masks],
        )


def make(case: Case, dtype: torch.dtype = torch.float64, seed: int = 0, device: str = "cpu") -> Given:
    """A problem's tensors, each a slice of a larger buffer of NaN; the same values on every device."""
    generator = torch.Generator().manual_seed(seed)

    def slice_of(values: Tensor, to: torch.dtype = dtype) -> Tensor:
        holder = torch.full([size + 2 for size in values.shape], NAN, dtype=torch.float64).to(device, to)
        view = holder[tuple(slice(1, 1 + size) for size in values.shape)]
        return view.copy_(values)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    widths = [case.features, *case.hidden, 1]
    copies = [1 if layer < case.shared else case.num for layer in range(len(widths) - 1)]
    weights = [normal(m, widths[i + 1], widths[i]) / widths[i] ** 0.5 for i, m in enumerate(copies)]
    biases = [normal(m, widths[i + 1]) / 2 for i, m in enumerate(copies)]
    dropped = [case.num] * len(copies) if case.own_masks else copies
    masks = [(uniform(m, case.batch, h) < 0.6) / 0.6 for m, h in zip(dropped, case.hidden, strict=False)]
    p = uniform(case.batch, case.num) * (uniform(case.batch, case.num) >= case.void)
    return Given(
        slice_of(normal(case.batch, case.features)).requires_grad_(),
        [slice_of(weight).requires_grad_() for weight in weights],
        [slice_of(bias).requires_grad_() if case.biases else None for bias in biases],
        (torch.arange(case.batch) % 2 == 0).to(device, torch.int64),
        slice_of(p, torch.float64 if dtype == torch.float64 else torch.float32),
        [slice_of(mask) for mask in masks] if case.dropout else None,
    )


def run(function: Any, given: Given, **options: Any) -> Any:
    arguments = (given.features, given.weights, given.biases, given.targets, given.sample_weights)
    return function(*arguments, dropout_masks=given.masks, **options)


def upstream(results: tuple[Tensor, ...], seed: int = 1) -> list[Tensor]:
    """A gradient per result, none of them contiguous."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn((*t.shape, 2), generator=generator, dtype=torch.float64) for t in results]
    return [u.to(t.device, t.dtype)[..., 0] for u, t in zip(drawn, results, strict=True)]


def check_against_the_oracle(given: Given, case: Case, dtype: torch.dtype, **options: object) -> None:
    """Results and every gradient of `feature_gradient_norms` with ``options`` agree with the float64 oracle."""
    exact = given.to(torch.float64)
    ours = run(feature_gradient_norms, given, **case.options, **options)
    theirs = run(reference.feature_gradient_norms, exact, **case.options)
    if options.get("logits_everywhere", True) is False:
        theirs = (theirs[0], theirs[1] * (exact.sample_weights != 0), theirs[2])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for name, a, b in zip(("norms", "logits", "losses"), ours, theirs, strict=True):
        assert a.dtype == wide, name
        assert_agrees(a, b, dtype, name)
    upward = upstream(theirs)
    found = torch.autograd.grad(ours, given.leaves, [u.to(wide) for u in upward], allow_unused=True)
    expected = torch.autograd.grad(theirs, exact.leaves, upward, materialize_grads=True)
    for index, (a, b, leaf) in enumerate(zip(found, expected, given.leaves, strict=True)):
        assert a.dtype == leaf.dtype and a.device == leaf.device
        assert_agrees(a, b, dtype, f"gradient {index}")

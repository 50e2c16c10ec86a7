"""DRT: the dynamic network under another method's loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynconv.data import Batch
from dynconv.losses import GaussianKernels, class_balance, mk_mmd
from dynconv.methods import DRT, MCD, DRTConfig, MCDConfig, SourceOnly, SourceOnlyConfig
from dynconv.models import dynamic_parameters
from dynconv.nn import DynamicConv2d


def layers(method: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in method.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("loss", ["mcd", "mmd", "source-only"])
def test_every_convolution_is_dynamic_as_the_fields_say(loss: str) -> None:
    made = DRT(DRTConfig(loss=loss, num_bases=6, basis_kernel_size=None), num_classes=10)
    assert len(layers(made)) == 3
    for layer in layers(made):
        assert isinstance(layer, DynamicConv2d)
        assert layer.basis.shape == (6 * layer.out_channels, layer.in_channels, *layer.kernel_size)


def test_baselines_are_static() -> None:
    for made in (MCD(MCDConfig(), 10), SourceOnly(SourceOnlyConfig(), 10)):
        assert not any(isinstance(layer, DynamicConv2d) for layer in layers(made))


def twin(static: MCD, **fields: object) -> DRT:
    """The dynamic method with the static one's weights, and bases of zero."""
    made = DRT(DRTConfig(**fields), num_classes=static.num_classes).double().train()
    missing, unexpected = made.load_state_dict(static.state_dict(), strict=False)
    assert not unexpected
    with torch.no_grad():
        for layer in layers(made):
            layer.basis.zero_()
    return made


@pytest.mark.parametrize("form", ["three-step", "reversal"])
def test_with_zero_bases_it_is_mcd_update_for_update(form: str, batch: Batch) -> None:
    static = (
        MCD(MCDConfig(form=form, normalisation_policy="joint", discrepancy_weight=3.0), num_classes=3).double().train()
    )
    dynamic = twin(static, form=form, discrepancy_weight=3.0)
    expected, got = list(static.updates(batch)), list(dynamic.updates(batch))
    assert [update.of for update in got] == [update.of for update in expected]
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine.loss, theirs.loss)
        assert mine.logs.keys() == theirs.logs.keys()


def test_with_the_source_loss_it_has_one_head_and_never_sees_the_target(batch: Batch) -> None:
    made = DRT(DRTConfig(loss="source-only"), num_classes=3).double().train()
    assert len(made.heads) == 1
    batch.target.images.fill_(float("nan"))
    (update,) = made.updates(batch)
    assert update.of == ("features", "heads")
    assert update.loss.isfinite()
    assert all(buffer.isfinite().all() for buffer in made.buffers())


@pytest.mark.parametrize("estimator", ["linear", "unbiased"])
def test_with_mmd_one_classifier_learns_and_the_features_come_together(estimator: str, batch: Batch) -> None:
    torch.manual_seed(0)
    fields = {"mmd_estimator": estimator, "mmd_weight": 3.0, "class_balance": 0.1, "ramp_steps": 10}
    made = DRT(DRTConfig(loss="mmd", **fields), num_classes=3).double().train()
    assert len(made.heads) == 1
    made.begin_step(5, 20)
    (update,) = made.updates(batch)
    assert update.of == ("features", "heads")
    source, target = made.encode(batch)
    learning = nn.functional.cross_entropy(made.heads[0](source), batch.source.labels)
    mmd = mk_mmd(source, target, kernels=GaussianKernels(), estimator=estimator)
    wanted = learning + 0.1 * class_balance(made.heads[0](target)) + 1.5 * mmd
    torch.testing.assert_close(update.loss, wanted)
    torch.testing.assert_close(update.logs["mmd"], mmd.detach())
    assert update.logs["mmd_weight"] == 1.5 and "discrepancy_weight" not in update.logs
    assert DRTConfig().mmd_weight == 1


def test_bases_and_branches_learn_at_their_own_rate() -> None:
    made = DRT(DRTConfig(lr=0.01, residual_lr_factor=10.0, head_lr_factor=2.0, lr_schedule="constant"), num_classes=3)
    optimisers = made.optimisers()
    rates = {id(p): group["lr"] for group in optimisers["features"].param_groups for p in group["params"]}
    residual = {id(parameter) for parameter in dynamic_parameters(made.features)}
    assert len(residual) == 9  # per convolution: the bases and two linear layers
    for parameter in made.features.parameters():
        assert rates[id(parameter)] == pytest.approx(0.1 if id(parameter) in residual else 0.01)
    assert [group["lr"] for group in optimisers["heads"].param_groups] == pytest.approx([0.02])


def test_training_moves_every_dynamic_parameter(batch: Batch, train) -> None:
    torch.manual_seed(0)
    made = DRT(DRTConfig(discrepancy_weight=1.0), num_classes=3).double()
    before = [parameter.clone() for parameter in dynamic_parameters(made.features)]
    train(made, [batch] * 2, 2)
    for old, new in zip(before, dynamic_parameters(made.features), strict=True):
        assert not torch.equal(old, new)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_bases": 0}, "num_bases: expected at least 1, got 0"),
        ({"temperature": 0.0}, "temperature: expected a positive number, got 0.0"),
        ({"reduction": 0}, "reduction: expected at least 1, got 0"),
        ({"residual_lr_factor": 0.0}, "residual_lr_factor: expected more than 0, got 0.0"),
        ({"basis_kernel_size": 3}, "basis_kernel_size: expected one of 1, None, got 3"),
        ({"loss": "source-only", "discrepancy_weight": 4.0}, "discrepancy_weight: 4.0 contradicts loss 'source-only'"),
        ({"loss": "source-only", "reversal_weight": 4.0}, "reversal_weight: 4.0 contradicts loss 'source-only'"),
        ({"loss": "source-only", "class_balance": 0.1}, "class_balance: 0.1 contradicts loss 'source-only'"),
        ({"loss": "source-only", "ramp_steps": 9}, "ramp_steps: 9 contradicts loss 'source-only'"),
        ({"discrepancy_steps": 2}, "discrepancy_steps: 2 contradicts form 'reversal'"),
        ({"loss": "mmd", "form": "three-step"}, "form: three-step contradicts loss 'mmd'"),
        ({"loss": "mmd", "reversal_weight": 4.0}, "reversal_weight: 4.0 contradicts loss 'mmd'"),
        ({"loss": "mmd", "prediction": "max"}, "prediction: max contradicts loss 'mmd'"),
        ({"loss": "mmd", "discrepancy_weight": 1.0}, "discrepancy_weight: 1.0 contradicts loss 'mmd', whose weight is"),
        ({"loss": "mmd", "mmd_weight": -1.0}, "mmd_weight: expected at least 0, got -1.0"),
        ({"mmd_weight": 2.0}, "mmd_weight: 2.0 contradicts loss 'mcd'"),
        ({"loss": "source-only", "mmd_weight": 2.0}, "mmd_weight: 2.0 contradicts loss 'source-only'"),
        ({"mmd_estimator": "biased"}, "mmd_estimator: biased contradicts loss 'mcd'"),
        ({"loss": "source-only", "mmd_estimator": "biased"}, "mmd_estimator: biased contradicts loss 'source-only'"),
    ],
)
def test_fields_that_make_no_network_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DRTConfig(**fields)

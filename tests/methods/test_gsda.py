"""GSDA against its equations, with gradients by autograd as one would write them down."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dynconv.data import Batch
from dynconv.methods import GSDA, GSDAConfig
from dynconv.methods.adversarial import Encoded

GROUPS = [[0, 2], [1]]


def make(**fields: Any) -> GSDA:
    torch.manual_seed(0)
    small = {"hidden_features": 16, "bottleneck": 8, "dropout": 0.0}
    if fields.get("levels", "group") == "group" and "num_groups" not in fields:
        fields = {"groups": "[[0, 2], [1]]"} | fields
    return GSDA(GSDAConfig(**small | fields), num_classes=3).double().train()


def by_hand(method: GSDA, encoded: Encoded) -> tuple[Tensor, Tensor]:
    """L_g + L_l (eq. 6 to 9) and L_syn (eq. 10 to 12), as sums."""
    p = torch.cat(
        [torch.eye(3).double()[encoded.labels], encoded.scores[len(encoded.labels) :].softmax(dim=1)]
    ).detach()
    weights = [torch.ones(len(p)).double(), *(p[:, group].sum(dim=1) for group in GROUPS), *p.unbind(dim=1)]
    losses, magnitudes = [], []
    for index, weight in enumerate(weights):
        logits = method.discriminators.discriminator(index)(encoded.features)[:, 0]
        # Copies: the gradients of the parameters are not asked for here.
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, encoded.domains, weight, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, encoded.features, create_graph=True)
        losses.append(loss)
        magnitudes.append(gradient.norm(dim=1).sum())
    domain, *rest = magnitudes
    groups, classes = rest[:2], rest[2:]
    of_groups = [abs(g - sum(classes[k] for k in members)) for g, members in zip(groups, GROUPS, strict=True)]
    return torch.stack(losses).sum(), sum(of_groups) / 2 + abs(domain - sum(groups))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_losses_are_those_of_equations_6_to_13(reduction: str, batch: Batch) -> None:
    method = make(loss_reduction=reduction, beta=0.7)
    encoded = method.encoded(batch)
    opposed, synchronisation = by_hand(method, encoded)
    scale = 1 if reduction == "sum" else 1 / 10
    game = method.alignment(encoded, None)
    assert game.shared is not None
    torch.testing.assert_close(game.opposed, scale * opposed)
    torch.testing.assert_close(game.shared, 0.7 * scale * synchronisation)
    assert synchronisation > 0
    ours = torch.autograd.grad(game.opposed + game.shared, encoded.features)[0]
    theirs = torch.autograd.grad(scale * (opposed + 0.7 * synchronisation), encoded.features)[0]
    torch.testing.assert_close(ours, theirs)


def test_discriminators_lower_and_features_lower_the_synchronisation(batch: Batch) -> None:
    """Eq. 14 and 16: L_syn has the same sign on both sides, the domain losses have not."""
    method = make(beta=2.0, entropy_weight=0.1, ramp="none")
    updates = method.updates(batch)
    first, second = next(updates), next(updates)
    encoded = method.encoded(batch)
    opposed, synchronisation = by_hand(method, encoded)
    torch.testing.assert_close(first.loss, (opposed + 2 * synchronisation).detach() / 10)
    task, _ = method.task_loss(encoded)
    torch.testing.assert_close(second.loss, (task + (2 * synchronisation - opposed) / 10).detach())


def test_the_classifier_learns_from_its_own_loss_alone(batch: Batch) -> None:
    """Eq. 17: the probabilities that weigh the losses pass no gradient."""
    method = make()
    *_, update = method.updates(batch)
    task, _ = method.task_loss(method.encoded(batch))
    parameters = list(method.heads.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(update.loss, parameters), torch.autograd.grad(task, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_the_entropy_of_the_target_has_its_weight(batch: Batch) -> None:
    plain, weighted = make(entropy_weight=0.0), make(entropy_weight=0.5)
    encoded = plain.encoded(batch)
    p = encoded.scores[4:].softmax(dim=1)
    entropy = -(p * p.log()).sum(dim=1).mean()
    torch.testing.assert_close(weighted.task_loss(encoded)[0] - plain.task_loss(encoded)[0], 0.5 * entropy)


@pytest.mark.parametrize(
    ("fields", "nodes", "levels"),
    [
        ({"levels": "global", "synchronisation": False}, 1, 1),
        ({"levels": "class", "synchronisation": False}, 4, 2),
        ({"levels": "group", "synchronisation": False}, 6, 3),
        ({}, 6, 3),
        ({"groups": "[[0, 1], [1, 2]]"}, 6, 3),
        ({"groups": "[[[0], [1]], [2]]"}, 8, 4),
    ],
)
def test_every_row_of_the_ablation_trains_and_says_how_its_levels_agree(
    fields: dict[str, Any], nodes: int, levels: int, batch: Batch
) -> None:
    method = make(**fields)
    assert method.discriminators.num == nodes
    first, second = method.updates(batch)
    names = set(first.logs)
    for level in range(levels):
        assert {f"gradient/level-{level}", f"discriminator/accuracy/level-{level}"} <= names
    assert {name for name in names if name.startswith("synchronisation/")} == {
        f"synchronisation/level-{level}" for level in range(levels - 1)
    }
    assert ("synchronisation_loss" in names) == fields.get("synchronisation", True)
    assert second.loss.isfinite()


def test_a_checkpoint_brings_the_random_groups_back() -> None:
    first = make(num_groups=(2,))
    torch.manual_seed(1)
    for _ in range(8):
        other = GSDA(first.config, num_classes=3).double()
        if not torch.equal(other.membership, first.membership):
            break
    else:
        pytest.fail("the groups do not follow the seed")
    other.load_state_dict(first.state_dict())
    assert torch.equal(other.membership, first.membership)
    assert torch.equal(other.edges, first.edges)
    fixed = [make(num_groups=(2,), group_seed=3).membership for _ in range(2)]
    assert torch.equal(*fixed)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"levels": "global"}, "synchronisation: it needs a second level"),
        ({"levels": "class", "num_groups": (2,)}, "num_groups: .* contradicts levels 'class'"),
        ({"groups": "[[0, 1]", "levels": "group"}, "groups: expected nested lists"),
        ({"groups": "[[0], [1, 2]]", "group_seed": 1}, "group_seed: 1 contradicts groups"),
        ({"synchronisation": False, "beta": 2.0}, "beta: 2.0 contradicts synchronisation false"),
        ({"beta": -1.0}, "beta: expected at least 0"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GSDAConfig(**fields)
    with pytest.raises(TypeError, match="num_groups: expected a tuple of integers"):
        GSDAConfig(num_groups=3)  # type: ignore[arg-type]  # what a file may hold


@pytest.mark.parametrize("fields", [{"levels": "class"}, {"groups": "[[0], [1, 2]]"}])
def test_runs_from_when_6_groups_were_the_default_are_read(fields: dict[str, Any]) -> None:
    GSDAConfig(num_groups=(6,), **fields)
    with pytest.raises(ValueError, match="num_groups"):
        GSDAConfig(num_groups=(7,), **fields)


def test_groups_that_do_not_fit_the_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_groups: expected growing numbers from 2 to 2 for 3 classes"):
        make(num_groups=(3,))
    with pytest.raises(ValueError, match="groups: no group holds the classes 2"):
        make(groups="[[0], [1]]")


@pytest.mark.parametrize(
    ("classes", "groups", "told"),
    [
        (2, 0, "the 2 classes; no groups"),
        (3, 2, "the 3 classes; 2 groups"),
        (6, 3, "6 classes; 3 groups"),
        (7, 6, None),
    ],
)
def test_the_default_number_of_groups_fits_few_classes_and_says_so(classes: int, groups: int, told: str | None) -> None:
    method = GSDA(GSDAConfig(hidden_features=8), classes)
    # The domain, the groups and the classes.
    assert len(method.membership) == 1 + groups + classes and method.depth == (3 if groups else 2)
    if told is None:
        assert method.notice is None
    else:
        assert method.notice is not None and told in method.notice and "num_groups: 6, the paper's" in method.notice
    assert GSDA(GSDAConfig(hidden_features=8, levels="class"), classes).notice is None
    if classes <= 6:
        # What is asked for is never replaced.
        with pytest.raises(ValueError, match="fewer|between|num_groups"):
            GSDA(GSDAConfig(hidden_features=8, num_groups=(6,)), classes)

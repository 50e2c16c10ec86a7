"""BSP: the penalty of each domain's batch beside the game of DANN or CDAN, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dynconv.data import Batch
from dynconv.methods import BSP, CDAN, DANN, METHODS, BSPConfig
from dynconv.methods.adversarial import AdversarialMethod

SMALL: dict[str, Any] = {"hidden_features": 16, "bottleneck": 8, "dropout": 0.0, "ramp": "none"}
GAMES: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"game": "dann"}, "dann", {}),
    ({}, "cdan", {}),
    ({"entropy_conditioning": True}, "cdan", {"entropy_conditioning": True}),
    ({"random_features": 6}, "cdan", {"random_features": 6}),
]


def make(name: str = "bsp", **fields: Any) -> AdversarialMethod:
    torch.manual_seed(0)
    kind = METHODS[name]
    made = kind(kind.config_class(**SMALL | {"normalisation_policy": "joint"} | fields), num_classes=3).double()
    assert isinstance(made, AdversarialMethod)
    return made.train()


def gradients(loss: Tensor, module: torch.nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True))


@pytest.mark.parametrize(("fields", "game", "of_game"), GAMES)
@pytest.mark.parametrize("count", [1, 2])
def test_the_loss_is_the_games_and_the_largest_squares(
    fields: dict[str, Any], game: str, of_game: dict[str, Any], count: int, batch: Batch
) -> None:
    made = make(**fields, spectral_weight=0.3, num_singular_values=count)
    other = make(game, **of_game)
    assert type(other) in (CDAN, DANN)
    other.load_state_dict(made.state_dict())
    (update,), (alone,) = made.updates(batch), other.updates(batch)
    assert update.of == alone.of == ("features", "heads", "discriminators")
    penalty = torch.zeros((), dtype=torch.float64)
    encoded = other.encoded(batch)
    for part in (encoded.features[:4], encoded.features[4:]):
        for value in torch.linalg.svdvals(part)[:count]:
            penalty = penalty + value**2
    torch.testing.assert_close(update.loss, alone.loss + 0.3 * penalty, rtol=1e-12, atol=0)
    torch.testing.assert_close(update.logs["spectral_loss"], penalty.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradients(update.loss, made.features),
        gradients(alone.loss + 0.3 * penalty, other.features),
        rtol=1e-9, atol=1e-11,
    )  # fmt: skip


def test_in_turns_the_features_alone_are_penalised(batch: Batch) -> None:
    made = make(form="alternating", spectral_weight=0.3)
    first, second = made.updates(batch)
    assert (first.of, second.of) == (("discriminators",), ("features", "heads"))
    assert "spectral_loss" in second.logs and "spectral_loss" not in first.logs


def test_without_a_weight_it_is_the_game(batch: Batch) -> None:
    (update,) = make(spectral_weight=0.0).updates(batch)
    (alone,) = make("cdan").updates(batch)
    assert torch.equal(update.loss, alone.loss)
    assert "spectral_loss" not in update.logs


def test_the_defaults_are_those_of_the_paper_and_the_released_code() -> None:
    config = BSPConfig()
    assert (config.game, config.spectral_weight, config.num_singular_values) == ("cdan", 1e-4, 1)
    assert (config.normalisation_policy, config.lr, config.lr_gamma) == ("joint", 3e-3, 1e-3)
    assert BSP.default_batch_size == 36


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spectral_weight": -1.0}, "spectral_weight: expected at least 0, got -1.0"),
        ({"num_singular_values": 0}, "num_singular_values: expected at least 1, got 0"),
        ({"spectral_weight": 0.0, "num_singular_values": 2}, "num_singular_values: 2 contradicts spectral_weight 0"),
        ({"game": "dann", "entropy_conditioning": True}, "entropy_conditioning: True contradicts game 'dann'"),
        ({"game": "dann", "random_features": 5}, "random_features: 5 contradicts game 'dann'"),
        ({"game": "dann", "conditioning": "concatenated"}, "conditioning: concatenated contradicts game 'dann'"),
    ],
)
def test_contradicting_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BSPConfig(**fields)

"""Deep embedded validation (DEV; You, Wang, Long and Jordan, ICML 2019): the target's risk estimated from labelled
source images, each weighted by how much it looks like one of the target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dynconv.metrics.errors import check_finite_values

# scikit-learn's C, the strongest penalty first. Of 3,000 images of one distribution, whose weights are all 1 in truth,
# C = 1 gave weights up to 14 with 256 features and 1e19 with 2,048; the best of these gave 1.2 and 1.7.
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
# e**50 is beyond any weight that a sample of thousands can tell, and its square is still finite.
LOG_WEIGHT = 50.0


def deep_embedded_validation(
    source: Tensor, target: Tensor, validation: Tensor, scores: Tensor, labels: Tensor
) -> float:
    """The risk R_DEV (section 3.3, algorithm 1) with cross entropy for loss, in nats; lower is better.

    It may be negative: the control variate takes from an estimate more than there was.

    Args:
        source, target: Features (S, F) and (T, F) of training images, unlabelled: their density ratio is learned.
        validation: Features (V, F) of source images that were not trained on,
        scores: their class scores (V, C)
        labels: and their labels int64 (V,).

    Raises:
        ValueError: A side without an image, or features of another width.
        NonFiniteError: A feature or score is not finite.
    """
    check_finite_values(scores=scores)
    losses = cross_entropy(scores.detach().cpu().double(), labels.cpu(), reduction="none")
    return controlled_risk(density_ratio(source, target, validation), losses)


def density_ratio(source: Tensor, target: Tensor, at: Tensor) -> Tensor:
    """p_target / p_source at features `at`, float64 (N,), from a classifier that tells the domains apart.

    The odds of a logistic regression for "target" on standardised features, times S / T (section 3.2; the paper's
    classifier is a small network). Its penalty is the best by log loss on every fifth image of each side, or the
    strongest one where a side has fewer than five.

    Args:
        source, target: Features (S, F) and (T, F).
        at: Features (N, F).

    Raises:
        ValueError: A side without an image, or features of another width.
        NonFiniteError: A feature is not finite.
    """
    sides = {"source": source, "target": target, "at": at}
    for name, features in sides.items():
        if features.dim() != 2 or len(features) == 0 or features.shape[1] != source.shape[1]:
            expected = f"(N, {source.shape[-1]}) with at least one image"
            raise ValueError(f"{name}: expected features {expected}, got {tuple(features.shape)}")
    check_finite_values(**sides)
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import StandardScaler

    both = torch.cat([source, target]).detach().cpu().double().numpy()
    of_target = (torch.arange(len(both)) >= len(source)).numpy()
    kept = (torch.cat([torch.arange(len(source)), torch.arange(len(target))]) % 5 != 4).numpy()

    def fitted(inverse_penalty: float, rows: Any) -> Pipeline:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=1000))
        return model.fit(both[rows], of_target[rows])

    def loss(inverse_penalty: float) -> float:
        probabilities = fitted(inverse_penalty, kept).predict_proba(both[~kept])
        return float(log_loss(of_target[~kept], probabilities, labels=[False, True]))

    enough = min(len(source), len(target)) >= 5
    model = fitted(min(INVERSE_PENALTIES, key=loss) if enough else INVERSE_PENALTIES[0], slice(None))
    log_odds = torch.from_numpy(model.decision_function(at.detach().cpu().double().numpy()))
    return log_odds.clamp(-LOG_WEIGHT, LOG_WEIGHT).exp() * (len(source) / len(target))


def controlled_risk(weights: Tensor, losses: Tensor) -> float:
    """mean(wl) + eta mean(w) - eta with eta = -Cov(wl, w) / Var(w) (algorithm 1): the weights' mean is 1 in truth, so
    that what the sample's mean differs tells in which direction mean(wl) errs.

    Where all weights are the same, or there is one only, eta is undefined and mean(wl) is the risk.

    Args:
        weights, losses: Of each sample, float64 (N,), N > 0.

    Raises:
        ValueError: No sample, or weights and losses of different numbers.
    """
    if weights.dim() != 1 or weights.shape != losses.shape or not len(weights):
        raise ValueError(
            f"weights, losses: expected (N,) each, of at least one sample, got {tuple(weights.shape)} and "
            f"{tuple(losses.shape)}"
        )
    weighted = weights * losses
    if len(weights) < 2:
        return float(weighted.mean())
    covariance = torch.cov(torch.stack([weighted, weights]))
    # Equal weights differ by rounding, and the ratio of two roundings is no direction.
    if float(covariance[1, 1]) <= (1e-12 * float(weights.mean())) ** 2:
        return float(weighted.mean())
    eta = -float(covariance[0, 1] / covariance[1, 1])
    return float(weighted.mean()) + eta * float(weights.mean()) - eta

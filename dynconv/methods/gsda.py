"""Hierarchical gradient synchronisation (Hu et al., CVPR 2020): discriminators for the domain, for groups of classes
and for classes, whose gradients agree from level to level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dynconv.distributed import all_mean, world_size
from dynconv.losses import Hierarchy, domain_accuracies, parse_tree, synchronisation_terms
from dynconv.methods.adversarial import AdversarialConfig, AdversarialMethod, Alignment, Encoded, fixed
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.records import About
from dynconv.nn import DiscriminatorBank

# Section 3.1, on Office-31.
NUM_GROUPS = 6


@dataclass(frozen=True)
class GSDAConfig(AdversarialConfig):
    """GSDA; a field that the paper leaves open has the default of its nearest relative, CDAN."""

    levels: Literal["global", "class", "group"] = "group"
    """Which discriminators there are (Table 1): for the domain alone (eq. 6), and for classes (eq. 7), and for groups
    of classes (eq. 8)."""
    synchronisation: bool = True
    """Whether L_syn (eq. 12) is minimised by discriminators and features (the last row of Table 1)."""
    beta: float = 1.0
    """Weight of L_syn (eq. 13 and 16; 1 on Office-31 and Office-Home, 10 on VisDA and for partial adaptation)."""
    entropy_weight: float = 0.02
    """Weight of the entropy of the target's predictions (alpha of eq. 5; 0.02 on Office-31 and Office-Home, 0.2 on
    VisDA and for partial adaptation)."""
    num_groups: tuple[int, ...] = ()
    """Disjoint groups drawn at random (section 3.1: 6 on Office-31, 13 on Office-Home, 4 on VisDA); several growing
    numbers give a deeper hierarchy (section 2.2). They must be fewer than the classes. Empty for the 6
    of Office-31, and of 6 classes and fewer for half as many groups as classes (of two none), which the run says."""
    groups: str = ""
    """Groups of one's own as nested lists of class indices, "[[0, 1], [2, 3, 4]]", instead of random ones; classes
    count from 0 in the order of their names. They may overlap (a class's share is then divided among its groups)
    and may nest to any depth."""
    group_seed: int | None = None
    """Seed of the random division; None for the run's own."""
    loss_reduction: Literal["mean", "sum"] = "mean"
    """All losses per sample, or summed over the batch as they are printed in the paper."""

    ramp: Literal["none", "sigmoid"] = "none"
    """Rise of `adversarial_weight` as in DANN, or its full value from the first step (eq. 16)."""
    form: Literal["alternating", "reversal"] = "alternating"
    """Alternating updates (eq. 14 to 17), or all at once; L_syn is minimised by both sides either way."""
    source_sampling: Literal["uniform", "class-balanced"] = "class-balanced"
    """"class-balanced" draws every class of a source equally often (section 3.1)."""
    target_sampling: Literal["all", "confident"] = "confident"
    """"confident" trains on those target images whose predicted class has at least `confidence`, every predicted class
    equally often (section 3.1)."""

    def __post_init__(self) -> None:
        if isinstance(self.num_groups, list):
            object.__setattr__(self, "num_groups", tuple(self.num_groups))
        super().__post_init__()
        check_range(self, ("beta",), least=0)
        # 6 stands in each config.yaml from when it was the default, and those runs are still read.
        drawn = ("group_seed",) if self.num_groups == (NUM_GROUPS,) else ("num_groups", "group_seed")
        if self.levels != "group":
            choice = f"levels {self.levels!r}, which has no groups"
            check_unused(self, ("groups", *drawn), choice, "choose levels 'group'")
        if self.groups:
            choice = "groups, which says what they are"
            check_unused(self, drawn, choice, "leave groups empty")
            parse_tree(self.groups)
        if self.synchronisation and self.levels == "global":
            raise ValueError(
                "synchronisation: it needs a second level, and levels is 'global'; choose levels 'class' or 'group', "
                "or synchronisation false"
            )
        if not self.synchronisation:
            check_unused(self, ("beta",), "synchronisation false, which has no L_syn", "choose synchronisation true")

    def hierarchy(self, num_classes: int) -> Hierarchy:
        """The tree of discriminators. Raises a ValueError where the groups do not fit the classes."""
        if self.levels == "global":
            return Hierarchy.domain_only(num_classes)
        if self.levels == "class":
            return Hierarchy.from_tree(range(num_classes), num_classes)
        if self.groups:
            return Hierarchy.from_tree(parse_tree(self.groups), num_classes)
        generator = None if self.group_seed is None else torch.Generator().manual_seed(self.group_seed)
        return Hierarchy.random(num_classes, self.groups_of(num_classes), generator)

    def groups_of(self, num_classes: int) -> tuple[int, ...]:
        """`num_groups`, or what an empty one stands for: of few classes groups of two or three, a choice of ours (the
        paper's four of VisDA have three each)."""
        if self.num_groups:
            return self.num_groups
        if num_classes > NUM_GROUPS:
            return (NUM_GROUPS,)
        return (max(2, num_classes // 2),) if num_classes > 2 else ()


class GSDA(AdversarialMethod):
    """Discriminators: min L_g + L_l + beta L_syn (eq. 14). Features and classifier: min L_c + beta L_syn -
    (L_g + L_l) (eq. 16)."""

    config_class = GSDAConfig
    config: GSDAConfig
    about = About("Hu et al., CVPR 2020", partial=True)
    discriminators: DiscriminatorBank
    membership: Tensor
    edges: Tensor

    def make_discriminators(self) -> nn.Module:
        hierarchy = self.config.hierarchy(self.num_classes)
        # A random division is part of the run: a checkpoint brings it back whatever the seed is then.
        self.register_buffer("membership", hierarchy.membership)
        self.register_buffer("edges", hierarchy.edges)
        self.levels = hierarchy.levels
        return self.bank(hierarchy.num_nodes, self.features.out_features)

    @property
    def notice(self) -> str | None:
        config = self.config
        drawn = config.groups_of(self.num_classes)
        if config.levels != "group" or config.groups or config.num_groups or drawn == (NUM_GROUPS,):
            return super().notice
        own = (
            f"num_groups: {NUM_GROUPS}, the paper's, are not fewer than the {self.num_classes} classes; "
            f"{drawn[0] if drawn else 'no'} groups of classes instead (--num-groups to choose)"
        )
        return "\n".join(filter(None, (super().notice, own)))

    def alignment(self, encoded: Encoded, reverse: float | None) -> Alignment:
        drops = self.training and self.config.dropout > 0
        masks = self.discriminators.draw_masks(encoded.features) if drops else None
        if reverse is None:
            return self.losses(encoded.features, encoded, masks)
        # The domain losses are reversed for the features and L_syn is not, so each side has a pass of its own, which
        # computes that side's gradients alone; the features' pass adds no value.
        game = self.losses(encoded.features.detach(), encoded, masks)
        with fixed(self.discriminators):
            hidden = self.losses(encoded.features, encoded, masks)
        opposed = game.opposed - reverse * (hidden.opposed - hidden.opposed.detach())
        if game.shared is None or hidden.shared is None:
            return game._replace(opposed=opposed)
        return game._replace(opposed=opposed, shared=game.shared + (hidden.shared - hidden.shared.detach()))

    def losses(self, features: Tensor, encoded: Encoded, masks: list[Tensor] | None = None) -> Alignment:
        """L_g + L_l (eq. 6 to 9) and beta * L_syn (eq. 12) on `features` with dropout by `masks`, and what to log.

        The norms are computed in every row of the ablation: at half of all (sample, discriminator) pairs p is 0, of
        which `feature_gradient_norms` makes use, so that it is faster than the discriminators' own backward pass.
        """
        probabilities = encoded.probabilities
        weights = probabilities @ self.membership.to(probabilities).t()
        norms, logits, losses = self.judge(features, encoded.domains, weights, masks)
        # Over several processes the losses are averaged: a sum over the batch is the mean of this many times the parts.
        scale = world_size() if self.config.loss_reduction == "sum" else 1 / len(features)
        opposed = scale * losses.sum()
        magnitudes = all_mean(scale * norms.sum(dim=0))
        terms = synchronisation_terms(magnitudes, self.edges, self.levels)
        accuracies = domain_accuracies(logits.detach(), encoded.domains, weights)
        logs: dict[str, Tensor | float] = {
            "domain_loss": opposed.detach(),
            **self.by_level("gradient", magnitudes.detach(), mean=False),
            **{f"synchronisation/level-{level}": term.detach() for level, term in enumerate(terms)},
            **self.by_level("discriminator/accuracy", accuracies, mean=True),
        }
        if not self.config.synchronisation:
            return Alignment(opposed, None, logs)
        synchronisation = terms.sum()
        logs["synchronisation_loss"] = synchronisation.detach()
        return Alignment(opposed, self.config.beta * synchronisation, logs)

    def judge(
        self, features: Tensor, domains: Tensor, weights: Tensor, masks: list[Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Norms (N, M) of the gradients of the discriminators' losses, logits (N, M), and the losses (M,)."""
        return self.discriminators.gradient_norms(
            features, domains, weights, dropout_masks=masks, logits_everywhere=False
        )

    def by_level(self, name: str, values: Tensor, *, mean: bool) -> dict[str, Tensor | float]:
        """Sum or mean of the nodes' values (M,) on each level, by what to log it as."""
        members = [[node for node, each in enumerate(self.levels) if each == level] for level in range(self.depth)]
        reduce = torch.mean if mean else torch.sum
        return {f"{name}/level-{level}": reduce(values[nodes]) for level, nodes in enumerate(members)}

    @property
    def depth(self) -> int:
        """Levels of the hierarchy."""
        return max(self.levels) + 1

    def task_loss(self, encoded: Encoded) -> tuple[Tensor, dict[str, Tensor | float]]:
        task, logs = super().task_loss(encoded)
        # The mean is over as many images of the source as of the target, in each process.
        return (task if self.config.loss_reduction == "mean" else task * len(encoded.labels) * world_size()), logs

"""The fields that every method has: its network, its optimiser and its batch normalisation."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from dynconv.methods.checks import check_range, check_types, check_unused
from dynconv.models import DynamicSpec, NormalisationChoice, NormalisationPolicy
from dynconv.models.network import weights_of

Backbone = Literal[
    "lenet-small",
    "lenet-m3sda",
    "lenet-gam",
    "dtn",
    "resnet-small",
    "resnet50",
    "resnet101",
    "erfnet-encoder",
    "erfnet",
    "drn26",
    "fcn8s",
]


@dataclass(frozen=True)
class MethodConfig:
    """The fields that every method has. A method's own config adds its own, and may have other defaults of these.

    Raises:
        ValueError: A value out of its range, or fields that contradict each other: a field that differs from its
            default and that nothing reads with the others as they are is no silent mistake.
    """

    backbone: Backbone = "lenet-small"
    """The network: `lenet-small` for quick runs on digits, `lenet-m3sda` for Digit-Five as in M3SDA and DRT, `lenet-
    gam` for digits as in ADDA and GAM, `dtn` for those as in CyCADA and the Calibrator, `resnet-small` for 64 x 64
    images from scratch, `resnet50` and `resnet101` for 224 x 224. For labels of pixels `erfnet-encoder` (ERFNet's
    encoder and bilinear upsampling, as in GAM), `erfnet`, `drn26` (CyCADA and the Calibrator) and `fcn8s` (VGG16)."""
    weights: str = "auto"
    """Where its weights come from: "imagenet" (torchvision's), "none", a FILE with a state_dict, or "auto": ImageNet
    for resnet50 and resnet101, none for the others."""
    image_norm: NormalisationChoice = "auto"
    """What images are normalised by: "half" (to [-1, 1]), "imagenet" (less its mean, divided by its deviation), "unit"
    (to [0, 1], as released ERFNet's files want it), or "auto": "imagenet" with weights, "half" for the LeNets, `dtn`,
    `resnet-small` and from scratch."""
    norm: Literal["batch", "none"] = "batch"
    """Whether the network has batch normalisation (the ResNets always have, `fcn8s` and `lenet-gam` never)."""
    normalisation_policy: NormalisationPolicy = "joint"
    """How batch normalisation treats the two domains. "joint": one pass of source and target together. "separate": a
    pass of each, by its own statistics. "source-only": the target is normalised by the source's running statistics and
    leaves them alone. "frozen": everything by the running statistics that came with `weights`. "domain-specific":
    layers of its own for each domain (DSBN, Chang et al., CVPR 2019). "adabn": trains as "source-only", and target
    images are judged by the target's own statistics (Li et al., 2016)."""
    bottleneck: int = 0
    """Width of a linear layer between the network and the classifiers (256 in DANN, CDAN and what follows them); 0 for
    none."""
    residual: Literal["none", "subspace", "channel", "combined"] = "none"
    """Dynamic residual of the network's convolutions (DRT, Li et al., CVPR 2021): "none" for a static network,
    "subspace" routing (eq. 4), "channel" attention (eq. 3) or both "combined" (eq. 5); compared in Table 1. Of a LeNet
    and the DTN every convolution is dynamic, of a ResNet the 3x3 in its blocks, of a network for segmentation all of
    3x3, 3x1 and 1x3."""
    num_bases: int = 4
    """K of eq. 4; section 4.2 of DRT compares 2, 4, 6 and 8 ("subspace" and "combined" only)."""
    basis_kernel_size: Literal[1] | None = 1
    """1 for 1x1 bases (section 3.3), None for bases as large as the kernel ("subspace" and "combined" only)."""
    reduction: int = 16
    """Hidden width of the branch that finds the coefficients: max(in_channels // reduction, 4)."""
    temperature: float = 1.0
    """Of the softmax over the bases (1 in the paper; "subspace" and "combined" only)."""
    scale_activation: Literal["sigmoid", "hard"] = "sigmoid"
    """Scale of channel attention: 1 + sigmoid(z) (eq. 3), or "hard", relu6(z + 3) / 3 (unused in released DRT), which
    is 1 at the start, as pretrained weights need it ("channel" and "combined" only)."""
    branch_init: Literal["normal", "kaiming"] = "normal"
    """Start of the branches: "normal", N(0, 0.01) (released DRT), or "kaiming" (fan in; a choice of ours). In
    narrow networks from scratch the first keeps the coefficients near uniform: see `dynconv plot coefficients`."""
    optimiser: Literal["adam", "sgd"] = "adam"
    """MCD trains its digits with Adam, DRT with SGD (section 4.1)."""
    lr: float = 2e-4
    """Learning rate (MCD digits: 2e-4)."""
    momentum: float = 0.9
    """Of SGD; Adam has no use for it."""
    nesterov: bool = False
    """Nesterov's form of the momentum (SGD only)."""
    weight_decay: float = 5e-4
    """L2 penalty on every parameter (5e-4 in the released code of MCD and DRT)."""
    head_lr_factor: float = 1.0
    """The classifiers' learning rate is this many times `lr` (released DRT on DomainNet: 10)."""
    pretrained_lr_factor: float = 1.0
    """Parameters that came with `weights` learn with this many times `lr` (0.1 in DANN, CDAN and what follows them)."""
    residual_lr_factor: float = 1.0
    """Bases and branches learn with this many times `lr` (released DRT: 10 for those that its pretrained weights lack),
    or, where a FILE of released DRT brings them, as what came with `weights`. Those that ADDA's `source_checkpoint`
    brings learn with this factor."""
    lr_schedule: Literal["constant", "step", "inverse", "poly"] = "constant"
    """"step" multiplies the learning rate by `lr_decay` at each of `lr_milestones`; "inverse" by
    (1 + `lr_gamma` * step) ** -`lr_power`; "poly" by (1 - the part of the run that is over) ** `lr_power`."""
    lr_milestones: tuple[float, ...] = (1 / 3, 2 / 3)
    """Fractions of the run at which "step" decays (DRT section 4.1: epochs 100 and 200 of 300)."""
    lr_decay: float = 0.1
    """The factor of "step" (DRT section 4.1)."""
    lr_gamma: float = 1e-3
    """How fast "inverse" falls, per step (released CDAN: 0.001)."""
    lr_power: float = 0.75
    """The exponent of "inverse" (DANN, CDAN: 0.75) and of "poly" (released ERFNet: 0.9)."""
    label_smoothing: float = 0.0
    """Probability moved from the label to the other classes together; 0 in the papers, 0.01 in released DRT."""

    def __post_init__(self) -> None:
        # A configuration read from a file brings its tuples as lists.
        if isinstance(self.lr_milestones, list):
            object.__setattr__(self, "lr_milestones", tuple(self.lr_milestones))
        check_types(self)
        check_range(self, ("lr", "head_lr_factor", "lr_decay", "residual_lr_factor"), above=0)
        nonnegative = ("momentum", "weight_decay", "label_smoothing", "pretrained_lr_factor", "lr_gamma", "lr_power")
        check_range(self, (*nonnegative, "bottleneck"), least=0)
        if self.momentum >= 1:
            raise ValueError(f"momentum: expected less than 1, got {self.momentum}")
        if self.label_smoothing >= 0.5:
            raise ValueError(f"label_smoothing: expected less than 0.5, got {self.label_smoothing}")
        bounds = (0, *self.lr_milestones, 1)
        if any(right <= left for left, right in itertools.pairwise(bounds)):
            raise ValueError(
                f"lr_milestones: expected growing fractions of the run between 0 and 1, got {self.lr_milestones}"
            )
        if self.optimiser == "adam":
            unused = ("momentum", "nesterov")
            check_unused(self, unused, "optimiser 'adam', which has no use for it", "choose optimiser 'sgd'")
        elif self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: it is a form of momentum, and momentum is 0")
        users = {"lr_milestones": ("step",), "lr_decay": ("step",), "lr_gamma": ("inverse",)}
        for name, schedules in (users | {"lr_power": ("inverse", "poly")}).items():
            if self.lr_schedule not in schedules:
                choice = f"lr_schedule {self.lr_schedule!r}, which has no use for it"
                check_unused(self, (name,), choice, f"choose lr_schedule {' or '.join(map(repr, schedules))}")
        if self.norm == "none":
            choice = "norm 'none', which has no batch normalisation"
            check_unused(self, ("normalisation_policy",), choice, "choose norm 'batch'")
        if self.normalisation_policy == "frozen" and weights_of(self.backbone, self.weights) == "none":
            # Means of 0 and variances of 1 normalise nothing: that network has a name, norm "none".
            raise ValueError(
                f"normalisation_policy: 'frozen' keeps the running statistics that come with weights, and with weights "
                f"{self.weights!r} {self.backbone} starts without any; give a FILE as weights, or choose another policy"
            )
        self._check_residual()

    @property
    def few_labels(self) -> int:
        """How many labelled images of the target are trained on, where these are a few of all; 0 where they are not."""
        return 0

    @property
    def has_split_statistics(self) -> bool:
        """Whether each domain has batch statistics of its own."""
        return self.normalisation_policy in ("domain-specific", "adabn")

    @property
    def has_source_network(self) -> bool:
        """Whether source images are judged by another network than the target's: by batch statistics or an encoder of
        their own."""
        return self.has_split_statistics

    def dynamic_spec(self) -> DynamicSpec | None:
        """How the convolutions are made dynamic; None for a static network.

        Raises:
            ValueError: The fields make no such description.
        """
        if self.residual == "none":
            return None
        return DynamicSpec(
            residual=self.residual,
            num_bases=self.num_bases,
            basis_kernel_size=self.basis_kernel_size,
            reduction=self.reduction,
            temperature=self.temperature,
            scale_activation=self.scale_activation,
            branch_init=self.branch_init,
        )

    def _check_residual(self) -> None:
        of_bases, of_scale = ("num_bases", "basis_kernel_size", "temperature"), ("scale_activation",)
        of_all = ("reduction", "branch_init", "residual_lr_factor")
        unused = {
            "none": ((*of_bases, *of_scale, *of_all), "makes a static network", "'subspace'"),
            "subspace": (of_scale, "has no scale", "'channel' or 'combined'"),
            "channel": (of_bases, "has no bases", "'subspace' or 'combined'"),
        }
        if self.residual in unused:
            names, what, other = unused[self.residual]
            check_unused(self, names, f"residual {self.residual!r}, which {what}", f"choose residual {other}")
        self.dynamic_spec()
        scaled = self.residual in ("channel", "combined") and self.scale_activation == "sigmoid"
        if scaled and weights_of(self.backbone, self.weights) != "none":
            raise ValueError(
                f"scale_activation: 'sigmoid' begins at 1.5 times what each convolution gives, and a network with "
                f"weights {self.weights!r} begins as they are; choose scale_activation 'hard', which begins at 1, "
                f"residual 'subspace', or weights 'none'"
            )

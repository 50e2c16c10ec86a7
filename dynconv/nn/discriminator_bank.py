"""M discriminators on one batch of features, their weights stacked."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dynconv.functional import FeatureGradientNorms, feature_gradient_norms
from dynconv.ops.problem import autocast_is_on


class DiscriminatorBank(nn.Module):
    """``num`` domain discriminators, multilayer perceptrons of one shape: linear, activation, dropout, ..., linear to
    one logit (GSDA, section 3.1; CDAN, MADA and PADA have the same or one of them).

    Layer l has the parameters ``weight_{l}`` (num, H_{l+1}, H_l) and ``bias_{l}`` (num, H_{l+1}), with a leading
    dimension of 1 in the first ``shared_layers``; each discriminator starts as its own ``nn.Linear`` layers would.
    By default that is 1024 in_features + 1 051 649 parameters per discriminator: 79 on 2048 features have 249 million,
    1 GB in float32.

    Args:
        num: M, the number of discriminators.
        in_features: Width of the features.
        hidden_features: Width of every hidden layer.
        num_layers: Linear layers, the last included; 1 is a linear discriminator.
        dropout: Rate after every hidden activation, at least 0 and less than 1; on a CPU rounded to 1 / 65536.
        activation: ``"relu"``, ``"leaky_relu"``, or an elementwise module such as ``nn.GELU()``, for which
            :meth:`gradient_norms` takes a slower way.
        negative_slope: Of ``"leaky_relu"``.
        shared_layers: The first layers that all discriminators have in common; fewer than ``num_layers``.
        device, dtype: Of the parameters.

    Raises:
        TypeError: ``activation`` is neither a name nor a module, or another argument is no number.
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        num: int,
        in_features: int,
        hidden_features: int = 1024,
        num_layers: int = 3,
        dropout: float = 0.5,
        *,
        activation: str | nn.Module = "relu",
        negative_slope: float = 0.01,
        shared_layers: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = {"num": num, "in_features": in_features, "hidden_features": hidden_features, "num_layers": num_layers}
        for name, size in sizes.items():
            if not isinstance(size, int) or isinstance(size, bool):
                raise TypeError(f"{name} must be an int; got {size!r}.")
            if size < 1:
                raise ValueError(f"{name} must be at least 1; got {size}.")
        if not isinstance(dropout, int | float) or isinstance(dropout, bool):
            raise TypeError(f"dropout must be a number; got {dropout!r}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and less than 1; got {dropout}.")
        if not 0 <= shared_layers < num_layers:
            raise ValueError(
                f"shared_layers must be at least 0 and less than num_layers = {num_layers}, for each discriminator has "
                f"its own last layer; got {shared_layers}."
            )
        if isinstance(activation, str):
            if activation not in ("relu", "leaky_relu"):
                raise ValueError(f"activation must be relu, leaky_relu or a module; got {activation!r}.")
            if not 0 <= negative_slope < float("inf"):
                raise ValueError(f"negative_slope must be at least 0 and finite; got {negative_slope!r}.")
            activation = nn.ReLU() if activation == "relu" else nn.LeakyReLU(negative_slope)
        elif not isinstance(activation, nn.Module):
            raise TypeError(f"activation must be relu, leaky_relu or a module; got {activation!r}.")
        self.num, self.in_features, self.hidden_features, self.num_layers = (
            num,
            in_features,
            hidden_features,
            num_layers,
        )
        self.dropout, self.shared_layers = float(dropout), shared_layers
        self.activation = activation
        widths = [in_features, *[hidden_features] * (num_layers - 1), 1]
        for layer, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
            copies = 1 if layer < shared_layers else num
            weight = torch.empty(copies, outputs, inputs, device=device, dtype=dtype)
            self.register_parameter(f"weight_{layer}", nn.Parameter(weight))
            self.register_parameter(f"bias_{layer}", nn.Parameter(weight.new_empty(copies, outputs)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each discriminator's layers as ``nn.Linear`` draws them."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            bound = weight.shape[2] ** -0.5
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    @property
    def weights(self) -> list[nn.Parameter]:
        """The stacked weights, first layer first."""
        return [getattr(self, f"weight_{layer}") for layer in range(self.num_layers)]

    @property
    def biases(self) -> list[nn.Parameter]:
        """The stacked biases, first layer first."""
        return [getattr(self, f"bias_{layer}") for layer in range(self.num_layers)]

    def forward(self, features: Tensor) -> Tensor:
        """The logits (N, M) of features (N, D), or (M, N, D) where each discriminator has its own (MADA), with dropout
        while training."""
        h = features
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer < self.shared_layers:
                h = nn.functional.linear(h, weight[0], bias[0])
            elif h.dim() == 2:
                # One product for all discriminators; its result is (N, M * H).
                h = nn.functional.linear(h, weight.flatten(0, 1), bias.flatten())
                h = h.unflatten(1, (self.num, -1)).transpose(0, 1)
            else:
                h = torch.baddbmm(bias[:, None], h, weight.mT)
            if layer < self.num_layers - 1:
                h = self.activation(h)
                h = h * self._mask(h) if self.training and self.dropout > 0 else h
        return h[..., 0].t()

    def gradient_norms(
        self, features: Tensor, targets: Tensor, weights: Tensor, **options: Any
    ) -> FeatureGradientNorms:
        """Norms of the gradients of each discriminator's loss with respect to each sample's features, logits and losses
        from one pass with one dropout mask: :func:`dynconv.functional.feature_gradient_norms`.

        Args:
            features: (N, D).
            targets: (N,), 1 for source samples, 0 for target ones.
            weights: (N, M), each sample's weight in each discriminator's loss; a constant.
            **options: ``workspace_bytes`` (which does not count the masks that are drawn here), ``logits_everywhere``,
                ``backend`` and ``dropout_masks`` (else drawn while training) of that function.

        Raises:
            TypeError, ValueError, RuntimeError: As that function.
        """
        drops = self.training and self.dropout > 0 and "dropout_masks" not in options
        if drops and isinstance(features, Tensor) and features.is_floating_point():
            options["dropout_masks"] = self.draw_masks(features)
        # Of exactly these types: what a subclass computes is not known.
        if type(self.activation) is nn.LeakyReLU:
            options |= {"activation": "leaky_relu", "negative_slope": self.activation.negative_slope}
        elif type(self.activation) is not nn.ReLU:
            options["activation"] = self.activation
        return feature_gradient_norms(features, self.weights, self.biases, targets, weights, **options)

    def draw_masks(self, features: Tensor) -> list[Tensor]:
        """Factors of dropout for features (N, D), one tensor per hidden layer: (M, N, H), or (1, N, H) if shared."""
        dtype = features.dtype
        if autocast_is_on(features.device) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(features.device.type)
        shapes = [(weight.shape[0], features.shape[0], weight.shape[1]) for weight in self.weights[:-1]]
        return [self._mask(features.new_empty(shape, dtype=dtype)) for shape in shapes]

    def _mask(self, like: Tensor) -> Tensor:
        """0 with the probability of dropout, else 1 / (1 - dropout), in the shape of ``like``."""
        if self.dropout == 0:
            return torch.ones_like(like)
        if like.device.type != "cpu":
            return torch.empty_like(like).bernoulli_(1 - self.dropout).div_(1 - self.dropout)
        # Bits of random words, 8 per unit where the rate is a multiple of 1 / 256: bernoulli_ takes five times as long,
        # which was 15 % of a step of 79 discriminators. The rate is rounded, and the factor is that of the rounded one.
        bits, dtype = (8, torch.int8) if (256 * self.dropout).is_integer() else (16, torch.int16)
        kept = min(max(round((1 - self.dropout) * 2**bits), 1), 2**bits - 1)
        count = -(-like.numel() * bits // 64)
        words = torch.randint(-(2**63), 2**63 - 1, (count,), dtype=torch.int64, device=like.device)
        drawn = words.view(dtype)[: like.numel()].view(like.shape)
        return (drawn < kept - 2 ** (bits - 1)).to(like.dtype).mul_(2**bits / kept)

    def discriminator(self, index: int) -> nn.Sequential:
        """The discriminator ``index`` as a module of its own, with copies of its parameters and logits (N, 1)."""
        self._check_index(index)
        layers: list[nn.Module] = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            own = min(index, len(weight) - 1)
            linear = nn.utils.skip_init(
                nn.Linear, weight.shape[2], weight.shape[1], device=weight.device, dtype=weight.dtype
            )
            with torch.no_grad():
                linear.weight.copy_(weight[own])
                linear.bias.copy_(bias[own])
            layers.append(linear)
            if layer < self.num_layers - 1:
                layers += [copy.deepcopy(self.activation), nn.Dropout(self.dropout)]
        return nn.Sequential(*layers).train(self.training)

    def load_discriminator(self, index: int, module: nn.Module) -> None:
        """Copy the parameters of ``module``, built as :meth:`discriminator` builds it, to the discriminator ``index``.

        Raises:
            IndexError: There is no such discriminator.
            TypeError: ``module`` is no module.
            ValueError: The module has other layers, or other values in the layers that are shared; nothing was changed.
        """
        self._check_index(index)
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a Module; got {type(module).__name__}.")
        layers = [layer for layer in module.children() if not isinstance(layer, nn.Dropout)]
        expected = [layer for layer in self.discriminator(index) if not isinstance(layer, nn.Dropout)]
        if [_described(layer) for layer in layers] != [_described(layer) for layer in expected]:
            raise ValueError(
                f"module must be a sequence of {', '.join(map(_described, expected))}, apart from dropout; got "
                f"{', '.join(map(_described, layers)) or type(module).__name__}."
            )
        linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
        for layer, linear in enumerate(linears[: self.shared_layers]):
            same = torch.equal(linear.weight, self.weights[layer][0]) and torch.equal(
                linear.bias, self.biases[layer][0]
            )
            if not same:
                raise ValueError(
                    f"module's linear layer {layer} has other values than the bank's, which all {self.num} "
                    "discriminators share; load the module into a bank with shared_layers=0, or give its shared layers "
                    "the bank's values."
                )
        with torch.no_grad():
            for layer in range(self.shared_layers, self.num_layers):
                self.weights[layer][index].copy_(linears[layer].weight)
                self.biases[layer][index].copy_(linears[layer].bias)

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self.num:
            raise IndexError(
                f"index must be 0 to {self.num - 1}, for there are {self.num} discriminators; got {index}."
            )

    def extra_repr(self) -> str:
        return (
            f"{self.num}, in_features={self.in_features}, hidden_features={self.hidden_features}, "
            f"num_layers={self.num_layers}, dropout={self.dropout}, shared_layers={self.shared_layers}"
        )


def _described(layer: nn.Module) -> str:
    """A layer of a discriminator in words: what must agree."""
    if isinstance(layer, nn.Linear):
        return f"Linear({layer.in_features}, {layer.out_features}{'' if layer.bias is not None else ', without bias'})"
    return repr(layer).replace(", inplace=True", "").replace("inplace=True", "")

"""``DynamicConv2d``: a drop-in for ``nn.Conv2d`` whose kernel depends on the sample."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynconv import functional
from dynconv.nn.coefficient_branch import BranchInit, CoefficientBranch, ScaleActivation

Residual = Literal["subspace", "channel", "combined"]
Start = Literal["static", "random"]
RESIDUALS: tuple[Residual, ...] = ("subspace", "channel", "combined")
STARTS: tuple[Start, ...] = ("static", "random")

_Ints = int | tuple[int, int]


class DynamicConv2d(nn.Conv2d):
    """Dynamic residual transfer (DRT, eq. 2 to 5): y_b = s_b * conv(x_b, W0) + conv(x_b, sum_i pi_bi Phi_i) + bias.

    ``weight`` (W0) and ``bias`` are those of ``nn.Conv2d``, by name and shape: a static state_dict loads with
    ``strict=True`` and leaves basis and branch as they are. The static arguments mean what they mean there.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As in ``nn.Conv2d``.
        residual: ``"subspace"``: a basis mixed by pi (eq. 4). ``"channel"``: a scale s = 1 + Lambda per output channel
            (eq. 3). ``"combined"``: both (eq. 5).
        num_bases: K. Read by ``"subspace"`` and ``"combined"``.
        basis_kernel_size: 1: each Phi_i is a 1x1 kernel at the centre tap (DRT's release). None: the kernel's own size.
            Read by ``"subspace"`` and ``"combined"``.
        reduction, temperature, scale_activation, branch_init: Of the branch: see :class:`CoefficientBranch`.
        context_channels: Channels of the tensor that the branch reads, where that is not the input.
            DRT's ResNet reads the block's input; pass it to ``forward`` as ``context``.

    Attributes:
        weight: (Cout, Cin/groups, kh, kw).   bias: (Cout,) or None.
        basis: (K*Cout, Cin/groups, 1, 1) or (K*Cout, Cin/groups, kh, kw), None for ``"channel"``; Phi_i is
            ``basis.unflatten(0, (K, Cout))[i]``. Rank 4, for ``.to(memory_format=torch.channels_last)``.
        branch: The :class:`CoefficientBranch`.

    Raises:
        TypeError: ``num_bases`` or ``reduction`` is no int.
        ValueError: An option out of range, or an even kernel with a 1x1 basis (it has no centre tap).
    """

    basis: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Ints,
        stride: _Ints = 1,
        padding: _Ints | str = 0,
        dilation: _Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        *,
        residual: Residual = "subspace",
        num_bases: int = 4,
        basis_kernel_size: Literal[1] | None = 1,
        reduction: int = 16,
        temperature: float = 1.0,
        scale_activation: ScaleActivation = "sigmoid",
        branch_init: BranchInit = "normal",
        context_channels: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device=device,
            dtype=dtype,
        )
        if residual not in RESIDUALS:
            raise ValueError(f"DynamicConv2d: residual must be one of {RESIDUALS}, got {residual!r}.")
        has_basis, has_scale = residual != "channel", residual != "subspace"
        if isinstance(num_bases, bool) or not isinstance(num_bases, int):
            raise TypeError(f"DynamicConv2d: num_bases must be an int, got {num_bases!r}.")
        if has_basis and num_bases < 1:
            raise ValueError(f"DynamicConv2d: num_bases must be >= 1 for residual={residual!r}, got {num_bases}.")
        if basis_kernel_size not in (1, None):
            raise ValueError(
                "DynamicConv2d: basis_kernel_size must be 1 or None (the kernel's own size), "
                f"got {basis_kernel_size!r}."
            )
        if has_basis and basis_kernel_size == 1 and any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(
                f"DynamicConv2d: kernel_size {self.kernel_size} is even and has no centre tap for a 1x1 basis; "
                "give basis_kernel_size=None for a basis of the kernel's size."
            )
        self.residual: Residual = residual
        self.num_bases = num_bases if has_basis else 0
        self.context_channels = in_channels if context_channels is None else context_channels
        if has_basis:
            basis_kernel = (1, 1) if basis_kernel_size == 1 else self.kernel_size
            shape = (num_bases * out_channels, in_channels // groups, *basis_kernel)
            self.basis = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        else:
            self.register_parameter("basis", None)
        self.branch = CoefficientBranch(
            self.context_channels,
            self.num_bases,
            out_channels if has_scale else 0,
            reduction=reduction,
            temperature=temperature,
            scale_activation=scale_activation,
            init=branch_init,
            device=device,
            dtype=dtype,
        )
        self.reset_residual()

    @classmethod
    def from_conv2d(cls, conv: nn.Conv2d, *, start: Start = "static", **options: Any) -> DynamicConv2d:
        """A dynamic convolution around ``conv``: it takes over its weight and bias (the Parameters, not copies).

        Args:
            conv: A plain ``nn.Conv2d``.
            start: As in :meth:`reset_residual`; ``"static"`` makes the output equal to that of ``conv``.
            options: The keyword arguments that ``DynamicConv2d`` adds: ``residual``, ``num_bases``, ...

        Raises:
            TypeError: ``conv`` is not exactly an ``nn.Conv2d`` (a subclass may compute something else).
            ValueError: ``conv`` carries hooks, which a new module would drop, or the options contradict ``start``.
        """
        if type(conv) is not nn.Conv2d:
            raise TypeError(f"DynamicConv2d.from_conv2d: conv must be an nn.Conv2d, got {type(conv).__name__}.")
        if any(getattr(conv, hooks) for hooks in HOOKS):
            raise ValueError(
                "DynamicConv2d.from_conv2d: conv carries hooks, which would be lost; remove them first "
                "(torch.nn.utils.remove_weight_norm and the like for those of a reparametrisation)."
            )
        static: dict[str, Any] = {name: getattr(conv, name) for name in _STATIC_ARGUMENTS}
        dynamic = cls(
            **static,
            bias=conv.bias is not None,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
            **options,
        )
        dynamic.weight = conv.weight
        dynamic.bias = conv.bias
        dynamic.reset_residual(start)
        return dynamic.train(conv.training)

    def reset_parameters(self) -> None:
        """Draw all parameters anew: weight and bias as ``nn.Conv2d`` does, the rest by ``reset_residual("random")``."""
        super().reset_parameters()
        if hasattr(self, "branch"):  # nn.Conv2d's constructor calls this before the residual exists
            self.reset_residual()

    @torch.no_grad()
    def reset_residual(self, start: Start = "random") -> None:
        """Draw basis and branch anew.

        Args:
            start: ``"random"``: every Phi_i Kaiming-normal (fan out), the branch as ``branch_init`` says.
                ``"static"``: the residual starts at zero and can still learn. The branch's last layer is zero, so pi is
                uniform; the bases come in pairs +Phi, -Phi (an unpaired one is zero), so their mean is zero while each
                pi_i has a gradient of its own. From zero bases pi would get none, and all Phi_i would move alike.

        Raises:
            ValueError: ``start`` is unknown, or ``"static"`` with a sigmoid scale (it starts at 1 + sigmoid(0) = 1.5).
        """
        if start not in STARTS:
            raise ValueError(f"DynamicConv2d: start must be one of {STARTS}, got {start!r}.")
        static = start == "static"
        if static and self.residual != "subspace" and self.branch.scale_activation != "hard":
            raise ValueError(
                f"DynamicConv2d: residual={self.residual!r} with scale_activation={self.branch.scale_activation!r} "
                "cannot start static: its scale is 1 + sigmoid(0) = 1.5. Give scale_activation='hard', which starts "
                "at 1, or start='random'."
            )
        self.branch.reset_parameters()
        if static:
            self.branch.w2.zero_()
        if self.basis is None:
            return
        phi = self.basis.unflatten(0, (self.num_bases, self.out_channels))
        for i in range(self.num_bases):
            if static and i % 2:
                phi[i] = -phi[i - 1]
            elif static and i + 1 == self.num_bases:
                phi[i] = 0
            else:
                nn.init.kaiming_normal_(phi[i], mode="fan_out", nonlinearity="relu")

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        coefficients: Tensor | tuple[Tensor | None, Tensor | None] | None = None,
    ) -> Tensor:
        """
        Args:
            x: (B, Cin, H, W), or (Cin, H, W) for one image, as in ``nn.Conv2d``.
            context: (B, context_channels, H', W'), which the branch reads; default: x. Without B where x is.
            coefficients: (pi (B, K) or None, s (B, Cout) or None) computed elsewhere, used in place of the branch;
                for ``residual="subspace"`` pi alone is enough.

        Returns:
            (B, Cout, Hout, Wout), without B where x is.

        Raises:
            ValueError: No context where ``context_channels`` differs from ``in_channels``; a context beside
                coefficients; coefficients that do not fit ``residual``; channels or shapes that do not fit.
        """
        if x.dim() == 3:
            context = context if context is None else context.unsqueeze(0)
            return self.forward(x.unsqueeze(0), context, coefficients).squeeze(0)
        self._check_channels("x", x, self.in_channels)
        if coefficients is not None:
            if context is not None:
                raise ValueError("DynamicConv2d: context is of no use beside coefficients; give one of them.")
            pi, scale = self._given(coefficients)
        else:
            if context is None and self.context_channels != self.in_channels:
                raise ValueError(
                    f"DynamicConv2d: the branch reads a context of {self.context_channels} channels and the input has "
                    f"{self.in_channels}; pass it: forward(x, context=...)."
                )
            if context is not None:
                self._check_channels("context", context, self.context_channels)
            pi, scale = self.branch(x if context is None else context)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        return functional.dynamic_conv2d(
            x,
            self.weight,
            self.bias,
            scale=scale,
            basis=self.basis,
            coefficients=pi,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def _check_channels(self, name: str, given: Tensor, channels: int) -> None:
        if given.dim() == 4 and given.shape[1] != channels:
            raise ValueError(
                f"DynamicConv2d: {name} must have {channels} channels, (B, {channels}, H, W); "
                f"got shape {tuple(given.shape)}."
            )

    def _given(self, coefficients: Tensor | tuple[Tensor | None, Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
        if isinstance(coefficients, Tensor):
            coefficients = (coefficients, None)
        if not isinstance(coefficients, tuple) or len(coefficients) != 2:
            raise ValueError("DynamicConv2d: coefficients must be pi or a pair (pi, s), each a Tensor or None.")
        pi, scale = coefficients
        for name, value, wanted in (("pi", pi, self.num_bases), ("s", scale, self.branch.num_scales)):
            if (value is not None) != (wanted > 0):
                raise ValueError(
                    f"DynamicConv2d: residual={self.residual!r} needs coefficients (pi, s) with {name} "
                    f"{f'(B, {wanted})' if wanted else 'None'}, got {'None' if value is None else tuple(value.shape)}."
                )
        return pi, scale

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A static checkpoint knows weight and bias alone. One with some dynamic keys is damaged: strict mode says so.
        # On the meta device basis and branch have no values to leave as they are: there strict mode says so too.
        own = {prefix + name: value for name, value in self.state_dict().items() if name not in ("weight", "bias")}
        static = prefix + "weight" in state_dict and own.keys().isdisjoint(state_dict)
        if static and not self.branch.w1.is_meta:
            state_dict.update(own)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, residual={self.residual}"
        if self.basis is not None:
            text += f", num_bases={self.num_bases}, basis_kernel={tuple(self.basis.shape[2:])}"
        return text


_STATIC_ARGUMENTS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)

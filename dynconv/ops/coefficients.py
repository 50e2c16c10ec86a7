"""The operator ``coefficients``: pooling, a two-layer branch, softmax and scale activation."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynconv import backends, reference
from dynconv.ops import checks
from dynconv.ops._library import LIBRARY, is_plain, no_double_backward, refuse_forward_mode
from dynconv.ops.problem import accumulation_dtype, autocast_is_on

BACKENDS = ("auto", "eager", "native", "reference")
SCALE_ACTIVATIONS = ("sigmoid", "hard")

LIBRARY.define(
    "coefficients_native_forward(Tensor x, Tensor w1, Tensor w2, Tensor temperature, int num_bases, int scale_kind) "
    "-> (Tensor pi, Tensor s, Tensor pooled, Tensor hidden)"
)
LIBRARY.define(
    "coefficients_native_backward(Tensor? grad_pi, Tensor? grad_s, Tensor pi, Tensor s, Tensor pooled, Tensor hidden, "
    "Tensor w1, Tensor w2, Tensor temperature, int num_bases, int scale_kind, SymInt pixels, ScalarType dtype) "
    "-> (Tensor grad_pixel, Tensor grad_w1, Tensor grad_w2)"
)


def coefficients(
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    *,
    num_bases: int,
    num_scales: int,
    temperature: float | Tensor = 1.0,
    scale_activation: str = "sigmoid",
    backend: str = "auto",
) -> tuple[Tensor | None, Tensor | None]:
    """The coefficients of a dynamic convolution from an attention branch (DRT, section 3.3, figure 3).

    ``z = w2 relu(w1 mean_hw(x))``; the first K = ``num_bases`` rows of z give ``pi = softmax(z / temperature)``, the
    other ``num_scales`` rows ``s = 1 + sigmoid(z)`` (DRT eq. 3) or, for ``"hard"``, ``s = relu6(z + 3) / 3``.

    Args:
        x: Context of shape (B, C, H, W), any floating dtype.
        w1: (hidden, C), the first layer, without bias.
        w2: (num_bases + num_scales, hidden), the second layer, without bias.
        num_bases: K, or 0 for no ``pi``.
        num_scales: Number of output channels, or 0 for no ``s``.
        temperature: A positive float, or a tensor of one element on ``x``'s device; it gets no gradient.
        scale_activation: ``"sigmoid"`` or ``"hard"``.
        backend: ``"auto"`` takes ``"native"`` where it was built (C++ on the CPU; CUDA, one launch forward and one
            backward where eager takes eight), else ``"eager"``. Both keep the slope of a saturated sigmoid to the last
            digits; ``"reference"``, the formula itself, which is also what an exported program holds, loses it with
            ``1 - sigmoid(z)``.

    Returns:
        ``(pi, s)`` of shapes (B, K) and (B, num_scales), None for a part of size 0; float32, or float64 for a float64
        x. They are computed in that dtype whatever the inputs' and autocast's.

    Raises:
        TypeError: An argument is no tensor or no floating-point tensor.
        ValueError: Shapes, devices or options do not fit, or the chosen backend cannot run here.
        RuntimeError: The native backend's gradient is differentiated again, or its forward-mode derivative is taken.
    """
    _check(x, w1, w2, num_bases, num_scales, scale_activation, backend)
    _check_temperature(temperature, x)
    dtype = accumulation_dtype(x.dtype)
    exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined]  # missing in stubs
    if not exporting and _wants_native(x, backend):
        refuse_forward_mode("coefficients", x, w1, w2)
        if not isinstance(temperature, Tensor):
            # On the host, where the kernel takes it as an argument: on the GPU it would cost a launch of its own. In a
            # compiled graph a tensor on the host would keep Inductor from recording CUDA graphs.
            device = x.device if torch.compiler.is_compiling() else "cpu"
            temperature = torch.full((), temperature, dtype=dtype, device=device)
        elif temperature.dtype not in (torch.float32, torch.float64):
            temperature = temperature.float()
        kind = SCALE_ACTIVATIONS.index(scale_activation)
        run = _Coefficients.apply if is_plain(x, w1, w2, temperature) else torch.ops.dynconv.coefficients_native_forward
        pi, s, *_ = run(x, w1, w2, temperature, num_bases, kind)
        return pi if num_bases else None, s if num_scales else None
    with torch.autocast(x.device.type, enabled=False) if autocast_is_on(x.device) else contextlib.nullcontext():
        # The mean of a half-precision x is taken in float32 without a float32 copy of x.
        pooled = x.mean(dim=(2, 3), keepdim=True, dtype=dtype)
        w1, w2 = w1.to(dtype), w2.to(dtype)
        if exporting or backend == "reference":
            return reference.coefficients(
                pooled,
                w1,
                w2,
                num_bases=num_bases,
                num_scales=num_scales,
                temperature=temperature,
                scale_activation=scale_activation,
            )
        hidden = F.relu(F.linear(pooled.flatten(1), w1))
        logits, gates = F.linear(hidden, w2).split([num_bases, num_scales], dim=1)
        pi = torch.softmax(logits / temperature, dim=1) if num_bases else None
        if not num_scales:
            return pi, None
        if scale_activation == "hard":
            return pi, F.relu6(gates + 3) / 3
        # sigmoid as the exponential of its logarithm: autograd takes the slope of torch.sigmoid from its value, and
        # nothing is left of 1 - sigmoid(z) in float32 beyond z = 17.
        return pi, 1 + F.logsigmoid(gates).exp()


def _wants_native(x: Tensor, backend: str) -> bool:
    if backend == "native":
        reason = backends.native_missing(x.device.type)
        if reason is not None:
            raise ValueError(f'backend="native" cannot run these coefficients: {reason}.')
        return True
    device_type = x.device.type
    if backend != "auto" or device_type not in ("cpu", "cuda"):
        return False
    if backends.native_missing(device_type) is None:
        return True
    if not torch.compiler.is_compiling():
        backends.note_fallback("coefficients", device_type)
    return False


def _check_temperature(temperature: float | Tensor, x: Tensor) -> None:
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1 or temperature.requires_grad:
            raise ValueError(
                "temperature must be a float or a tensor of one element that requires no gradient; got shape "
                f"{tuple(temperature.shape)}, requires_grad={temperature.requires_grad}."
            )
        if temperature.device != x.device:
            raise ValueError(f"temperature is on {temperature.device}, x on {x.device}; move them to one device.")
        if temperature.device.type != "cpu" or torch.compiler.is_compiling():
            # Its value would cost a synchronisation, or a break of the graph.
            return
    elif not isinstance(temperature, (int, float)):
        raise TypeError(f"temperature must be a float or a tensor of one element; got {temperature!r}.")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite; got {float(temperature)!r}.")


def _check(
    x: Tensor, w1: Tensor, w2: Tensor, num_bases: int, num_scales: int, scale_activation: str, backend: str
) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}.")
    if scale_activation not in SCALE_ACTIVATIONS:
        raise ValueError(f"scale_activation must be one of {', '.join(SCALE_ACTIVATIONS)}; got {scale_activation!r}.")
    for name, number in (("num_bases", num_bases), ("num_scales", num_scales)):
        if not isinstance(number, int):
            raise TypeError(f"{name} must be an int; got {number!r}.")
    if num_bases < 0 or num_scales < 0 or num_bases + num_scales == 0:
        raise ValueError(
            "num_bases and num_scales must be at least 0, and one of them positive; "
            f"got num_bases = {num_bases}, num_scales = {num_scales}."
        )
    checks.tensors({"x": (x, 4), "w1": (w1, 2), "w2": (w2, 2)}, like="x")
    if w1.shape[1] != x.shape[1]:
        raise ValueError(f"w1 must have shape (hidden, C) with x's C = {x.shape[1]}; got {tuple(w1.shape)}.")
    checks.shape("w2", w2, (num_bases + num_scales, w1.shape[0]), "(num_bases + num_scales, hidden)")
    if x.shape[2] * x.shape[3] == 0:
        raise ValueError(f"x must have at least one pixel to pool over; got shape {tuple(x.shape)}.")


@torch.library.register_fake("dynconv::coefficients_native_forward", lib=LIBRARY)
def _forward_fake(
    x: Tensor, w1: Tensor, w2: Tensor, temperature: Tensor, num_bases: int, scale_kind: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(x.dtype)
    widths = (num_bases, w2.shape[0] - num_bases, x.shape[1], w1.shape[0])
    pi, s, pooled, hidden = (x.new_empty((x.shape[0], width), dtype=dtype) for width in widths)
    return pi, s, pooled, hidden


@torch.library.register_fake("dynconv::coefficients_native_backward", lib=LIBRARY)
def _backward_fake(
    grad_pi: Tensor | None,
    grad_s: Tensor | None,
    pi: Tensor,
    s: Tensor,
    pooled: Tensor,
    hidden: Tensor,
    w1: Tensor,
    w2: Tensor,
    temperature: Tensor,
    num_bases: int,
    scale_kind: int,
    pixels: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    return pooled.new_empty(pooled.shape, dtype=dtype), w1.new_empty(w1.shape), w2.new_empty(w2.shape)


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, w1, w2, temperature, num_bases, scale_kind = inputs
    ctx.save_for_backward(*output, w1, w2, temperature)
    ctx.options = (num_bases, scale_kind)
    ctx.space, ctx.x_dtype = (x.shape[2], x.shape[3]), x.dtype
    # Zeros in place of an absent gradient would cost a launch for each of the four outputs.
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, grad_pi: Tensor | None, grad_s: Tensor | None, *_: Tensor | None) -> tuple:
    if grad_pi is None and grad_s is None:
        return (None,) * 6
    height, width = ctx.space
    # A gradient that is itself differentiated belongs to the operator's autograd, which says that it cannot be.
    direct = not torch.is_grad_enabled() and is_plain(grad_pi, grad_s)
    with torch._C._AutoDispatchBelowAutograd() if direct else contextlib.nullcontext():
        grad_pixel, dw1, dw2 = torch.ops.dynconv.coefficients_native_backward(
            grad_pi, grad_s, *ctx.saved_tensors, *ctx.options, height * width, ctx.x_dtype
        )
    dx = grad_pixel[:, :, None, None].expand(-1, -1, height, width)
    return dx, dw1, dw2, None, None, None


torch.library.register_autograd(
    "dynconv::coefficients_native_forward", _autograd, setup_context=_setup_context, lib=LIBRARY
)
no_double_backward("coefficients_native_backward", "coefficients")


class _Coefficients(torch.autograd.Function):
    """The native operator without the dispatcher's way through Python."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            output = torch.ops.dynconv.coefficients_native_forward(*arguments)
        _setup_context(ctx, arguments, output)
        return output[0], output[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        return _autograd(ctx, *grads)

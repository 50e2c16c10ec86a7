"""The kernel of `dynamic_conv2d`'s gradients for W0, s, Phi and pi, fused.

With G_b = dy_b x_b^T for one tap, (Cout, Cin/groups), summed over the pixels of sample b (gradients of DRT eq. 2 to 5):

    dW0 = sum_b s_b G_b    ds_bo = <W0[o], G_b[o]>    dPhi_i = sum_b pi_bi G_b    dpi_bi = <Phi_i, G_b>

A program owns one tap and one tile of (Cout, Cin/groups) and walks through samples. G_b's tile is a float32 accumulator
of tl.dot over the sample's pixels and is contracted in registers as soon as it is whole, so a product is formed once,
is used by all four gradients and never reaches memory. The sums over samples (dW0, every dPhi_i) stay in registers
until the end; so do the tiles of W0 and Phi, in the input's dtype. A 1x1 basis has only the centre tap; where W0 and s
ask for the other taps, they get a launch of their own with wider tiles.

Everything is linear in G, so a sample's pixels may be cut into chunks, and chunks be dealt to several programs. What a
program knows only in part (its share of dpi and ds; of dW0 and dPhi where samples are dealt out) goes to a slot of its
own, and torch adds the slots in a fixed order. There are no atomics: two runs agree in every bit.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _dots(acc, tiles, COUNT: tl.constexpr, PADDED: tl.constexpr):
    """<tiles[i], acc> for i < COUNT, (PADDED,): the products are joined first, so that the warps meet once for all."""
    joined = tl.tuple(())
    for i in tl.static_range(PADDED):
        joined = joined + (acc * tiles[i].to(tl.float32) if i < COUNT else tl.zeros_like(acc),)
    for level in tl.static_range(1, 4):
        if PADDED >> level > 0:
            pairs = tl.tuple(())
            for i in tl.static_range(PADDED >> level):
                pairs = pairs + (tl.join(joined[i], joined[i + (PADDED >> level)]),)
            joined = pairs
    products = tl.reshape(joined[0], (acc.shape[0], acc.shape[1], PADDED))
    return tl.sum(tl.sum(products, axis=1), axis=0)


@triton.jit(
    do_not_specialize=[
        "samples", "chunks", "blocks", "items", "x_h", "x_w", "out_w", "pixels", "groups",
        "first_tap_h", "first_tap_w", "taps_h", "taps_w", "stride_h", "stride_w", "padding_h", "padding_w",
        "dilation_h", "dilation_w", "never",
    ]
)  # fmt: skip
def contract(
    dy, x, weight, scale, basis, coefficients, dweight, dscale, dbasis, dcoefficients,
    samples, chunks, blocks, items, x_h, x_w, out_w, pixels,
    dy_stride_b, dy_stride_h, dy_stride_w, x_stride_b, x_stride_h, x_stride_w,
    outputs, inputs, groups, first_tap_h, first_tap_w, taps_h, taps_w,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, never,
    BASES: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr, OFFSET: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One tile of (output channels, input channels) of one tap, over `items` chunks of `blocks` blocks of pixels.

    outputs, inputs: channels of a group. taps_h, taps_w: the taps of every kernel here, W0 and Phi alike, from tap
    (first_tap_h, first_tap_w) of the convolution on. All kernels and their gradients lie as (Cout, taps, Cin/groups).
    """
    pid = tl.program_id(0).to(tl.int64)
    taps = taps_h * taps_w
    tiles_n = tl.cdiv(outputs, BLOCK_N)
    tiles_c = tl.cdiv(inputs, BLOCK_C)
    # The tiles of one share of the samples run next to each other: they read the same pixels.
    tiles = (taps * groups).to(tl.int64) * tiles_c * tiles_n
    split = pid // tiles
    slot = pid - split * tiles
    tile_n = (slot % tiles_n).to(tl.int32)
    tile_c = (slot // tiles_n % tiles_c).to(tl.int32)
    group = (slot // tiles_n // tiles_c % groups).to(tl.int32)
    tap = (slot // tiles_n // tiles_c // groups).to(tl.int32)
    tap_h = tap // taps_w
    tap_w = tap - tap_h * taps_w
    shift_h = (first_tap_h + tap_h) * dilation_h - padding_h
    shift_w = (first_tap_w + tap_w) * dilation_w - padding_w

    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tile_c * BLOCK_C + tl.arange(0, BLOCK_C)
    in_n = n < outputs
    in_c = c < inputs
    in_tile = in_n[:, None] & in_c[None, :]
    channels = groups * outputs
    size = channels * taps * inputs
    place = ((group * outputs + n) * taps + tap)[:, None] * inputs + c[None, :]
    dy += group * outputs
    x += group * inputs

    total = tl.zeros((BLOCK_N, BLOCK_C), dtype=tl.float32)
    totals = tl.tuple(())
    phi = tl.tuple(())
    if dscale is not None:
        w0 = tl.load(weight + place, mask=in_tile, other=0.0)
    for i in tl.static_range(BASES):
        if dbasis is not None:
            totals = totals + (total,)
        if dcoefficients is not None:
            phi = phi + (tl.load(basis + i * size + place, mask=in_tile, other=0.0),)

    PER_SAMPLE: tl.constexpr = BASES > 0 or scale is not None or dscale is not None
    chunks_in_all = samples * chunks
    first = split.to(tl.int32) * items
    count = tl.minimum(items, chunks_in_all - first)
    acc = tl.zeros((BLOCK_N, BLOCK_C), dtype=tl.float32)
    # One flat loop over chunks and blocks: nested, the software pipeline would drain at each sample, and at 7x7 a
    # sample is one block.
    for step in range(count * blocks):
        block = step % blocks
        chunk = first + step // blocks
        sample = chunk // chunks
        row = ((chunk - sample * chunks) * blocks + block) * BLOCK_P + tl.arange(0, BLOCK_P)
        out_row = row // out_w
        out_column = row - out_row * out_w
        h = out_row * stride_h + shift_h
        w = out_column * stride_w + shift_w
        inside = (row < pixels) & (h >= 0) & (h < x_h) & (w >= 0) & (w < x_w)
        dy_offset = out_row.to(OFFSET) * dy_stride_h + out_column.to(OFFSET) * dy_stride_w
        x_offset = h.to(OFFSET) * x_stride_h + w.to(OFFSET) * x_stride_w
        # 64-bit offsets to the sample, OFFSET within it: 32 bits halve the registers of its addresses.
        dy_sample = dy + sample.to(tl.int64) * dy_stride_b
        x_sample = x + sample.to(tl.int64) * x_stride_b
        g = tl.load(dy_sample + (dy_offset[:, None] + n[None, :]), mask=inside[:, None] & in_n[None, :], other=0.0)
        a = tl.load(x_sample + (x_offset[:, None] + c[None, :]), mask=inside[:, None] & in_c[None, :], other=0.0)
        # Asked for before the product, so that they are there when it is.
        if dweight is not None and scale is not None:
            s = tl.load(scale + sample.to(tl.int64) * channels + group * outputs + n, mask=in_n, other=0.0)
        if dbasis is not None:
            pi = tl.tuple(())
            for i in tl.static_range(BASES):
                pi = pi + (tl.load(coefficients + sample.to(tl.int64) * BASES + i).to(tl.float32),)
        if WIDEN:
            g = g.to(tl.float32)
            a = a.to(tl.float32)
        acc = tl.dot(tl.trans(g), a, acc, input_precision=PRECISION)
        if PER_SAMPLE and block == blocks - 1:
            if dweight is not None:
                if scale is not None:
                    total += s.to(tl.float32)[:, None] * acc
                else:
                    total += acc
            if dscale is not None:
                dots_n = tl.sum(acc * w0.to(tl.float32), axis=1)
                part = (tap * tiles_c + tile_c).to(tl.int64) * chunks_in_all + chunk
                tl.store(dscale + part * channels + group * outputs + n, dots_n, mask=in_n)
                w0 = tl.where(never != 0, acc.to(w0.dtype), w0)
            if dbasis is not None:
                moved = tl.tuple(())
                for i in tl.static_range(BASES):
                    moved = moved + (totals[i] + pi[i] * acc,)
                totals = moved
            if dcoefficients is not None:
                dots = _dots(acc, phi, BASES, PADDED)
                kept = tl.tuple(())
                for i in tl.static_range(BASES):
                    # `never` is 0. A tile that the loop might change is kept in the layout of `acc`, and packed;
                    # one that it cannot is laid out anew for each sample, through shared memory and with two
                    # barriers (an estimated 180 cycles each, beside 690 for a block's loads).
                    kept = kept + (tl.where(never != 0, acc.to(phi[i].dtype), phi[i]),)
                phi = kept
                which = tl.arange(0, PADDED)
                row_of = (slot * chunks_in_all + chunk) * BASES
                tl.store(dcoefficients + row_of + which, dots, mask=which < BASES)
            acc = tl.zeros((BLOCK_N, BLOCK_C), dtype=tl.float32)
    if not PER_SAMPLE:
        total = acc
    if dweight is not None:
        tl.store(dweight + split * size + place, total, mask=in_tile)
    if dbasis is not None:
        for i in tl.static_range(BASES):
            tl.store(dbasis + (split * BASES + i) * size + place, totals[i], mask=in_tile)

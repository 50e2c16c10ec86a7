"""The C++ operators of the dynamic convolution: every path of their blocking, on every instruction set there is."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from ops.cases import CASES, Case, gradients, in_double, run, tensors
from tolerances import assert_agrees

from dynconv import backends, reference
from dynconv.functional import dynamic_conv2d
from dynconv.info import info
from dynconv.ops import native
from dynconv.ops.problem import Mask, Problem

MISSING = backends.native_missing("cpu")
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"native CPU operators: {MISSING}")

# Beyond one block of each kind: lanes are 8 to 32 channels, tiles 6 to 14 pixels or output channels.
LARGE = {
    "several blocks": Case(inputs=37, outputs=45, basis=3, scale=True),
    "several blocks, 1x1 basis": Case(inputs=37, outputs=45, scale=True, channels_last=True),
    "groups of several blocks": Case(inputs=2 * 34, outputs=2 * 35, groups=2, basis=3, batch=5),
    "panels of the reduction": Case(batch=5, inputs=420, outputs=33, height=4, width=5, basis=3, scale=True),
    "panels, gradient": Case(batch=5, inputs=33, outputs=420, height=4, width=5, basis=3, scale=True),
    "panels, gradients of neighbouring blocks": Case(
        batch=3, inputs=130, outputs=230, height=4, width=5, basis=3, scale=True
    ),
    "panels, gradients of neighbouring blocks, groups": Case(
        batch=2, inputs=2 * 66, outputs=2 * 150, groups=2, height=4, width=3, basis=3
    ),
    "blocks of rows": Case(batch=2, inputs=3, outputs=5, height=61, width=59, basis=3, scale=True),
    "blocks of rows, strided": Case(batch=2, inputs=3, outputs=5, height=121, width=118, stride=(2, 2), basis=3),
    "blocks of rows, 1x1 basis": Case(batch=2, inputs=33, outputs=18, height=63, width=58, scale=True, dilation=(3, 1)),
    "padding beyond the kernel": Case(batch=2, inputs=3, height=3, width=40, padding=(9, 20), basis=3, scale=True),
    "wide rows": Case(batch=2, inputs=18, outputs=20, height=3, width=47, basis=3, channels_last=True),
    "kernel 2": Case(kernel=2, basis=2, inputs=35, outputs=20, scale=True),
    "kernel 4": Case(kernel=4, basis=4, inputs=35, outputs=20, scale=True),
    "kernel 5": Case(kernel=5, basis=5, padding=(2, 2), inputs=20, outputs=20, scale=True),
    "kernel 9": Case(kernel=9, basis=9, padding=(4, 4), inputs=5, outputs=5),
    "stride beyond the kernel": Case(stride=(3, 4), kernel=3, basis=3, padding=(0, 0), height=17, width=19),
    "stride and dilation": Case(stride=(2, 3), dilation=(2, 3), padding=(3, 4), basis=3, height=14, width=17),
    "kernel 1, strided": Case(kernel=1, basis=1, stride=(2, 2), padding=(0, 0), scale=True),
    "no static part, strided": Case(basis=3, static=False, stride=(2, 1), inputs=35, outputs=33),
    "one sample": Case(batch=1, inputs=20, outputs=30, height=23, width=9, basis=3, scale=True),
    "stride far beyond the kernel": Case(batch=2, inputs=40, outputs=8, height=301, width=8, stride=(100, 1), basis=3),
    "stride far beyond the kernel, both": Case(batch=2, height=90, width=70, stride=(40, 30), basis=3, scale=True),
    "many samples": Case(batch=11, inputs=9, outputs=10, height=5, width=5, basis=3, scale=True),
}


def depthwise(channels: int, **options: Any) -> Case:
    return Case(inputs=channels, outputs=channels, groups=channels, **options)


# One channel per group: blocks of channels, windows of rows, taps beyond one tile.
DEPTHWISE = {
    "depthwise": depthwise(40, basis=3, scale=True),
    "depthwise, 1x1 basis": depthwise(37, scale=True, batch=9),
    "depthwise, full block": depthwise(32, basis=3, scale=True, channels_last=True),
    "depthwise, full blocks and one more": depthwise(65, channels_last=True, batch=2),
    "depthwise, attention": depthwise(35, basis=0, scale=True, channels_last=True),
    "depthwise, static only": depthwise(33, basis=0, bias=False),
    "depthwise, no static part": depthwise(33, basis=3, static=False, kernel=3, stride=(2, 1)),
    "depthwise, strided": depthwise(33, basis=3, scale=True, stride=(2, 3), height=14, width=17),
    "depthwise, stride beyond the kernel": depthwise(34, basis=3, stride=(5, 4), padding=(0, 0), height=17, width=19),
    "depthwise, stride and dilation": depthwise(
        33, stride=(2, 3), dilation=(2, 3), padding=(3, 4), height=14, width=17
    ),
    "depthwise, padding beyond the image": depthwise(33, basis=3, height=2, width=3, padding=(4, 5), scale=True),
    "depthwise, left and above of the image": depthwise(
        33, kernel=1, basis=1, stride=(90, 90), padding=(5, 6), bias=False
    ),
    "depthwise, beyond the image": depthwise(33, kernel=3, basis=3, stride=(2, 2), dilation=(3, 4), padding=(9, 9)),
    "depthwise, no padding": depthwise(33, basis=3, padding=(0, 0), channels_last=True),
    "depthwise, kernel 4": depthwise(33, kernel=4, basis=4, scale=True, channels_last=True),
    "depthwise, kernel 7": depthwise(33, kernel=7, padding=(3, 3), height=17, width=20),
    "depthwise, windows of rows": depthwise(33, batch=2, basis=3, scale=True, height=47, width=90),
    "depthwise, windows, strided": depthwise(33, batch=2, stride=(2, 2), height=60, width=91, channels_last=True),
    "depthwise, one sample": depthwise(70, batch=1, scale=True, height=23, width=9),
    "depthwise, several rounds of samples": depthwise(
        70, batch=70, kernel=15, basis=15, padding=(7, 7), height=3, width=2, scale=True
    ),
}
EVERY = {**CASES, **LARGE, **DEPTHWISE}


@pytest.fixture(autouse=True)
def poisoned():
    """New memory holds NaN, so that an output that is not written shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def check(case: Case, dtype: torch.dtype, seed: int = 0) -> None:
    given = tensors(case, dtype, seed=seed)
    exact = in_double(given)
    y, expected = run(dynamic_conv2d, given, case, backend="native"), run(reference.dynamic_conv2d, exact, case)
    assert y.dtype == dtype
    assert_agrees(y, expected, what="y")
    # Transposed pixels: a gradient that lies in neither memory format.
    dy = torch.randn(*y.shape[:2], y.shape[3], y.shape[2], generator=torch.Generator().manual_seed(7))
    dy = dy.to(dtype).transpose(2, 3)
    ours, theirs = gradients(y, given, dy), gradients(expected, exact, dy.double())
    for name, gradient in ours.items():
        assert gradient.dtype == given[name].dtype
        assert_agrees(gradient, theirs[name], dtype, what=f"gradient of {name}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_agrees_with_the_oracle(name: str, dtype: torch.dtype) -> None:
    check(EVERY[name], dtype)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("groups", [1, 37])
def test_bfloat16_is_rounded_as_torch_rounds_it(groups: int, channels_last: bool) -> None:
    """s x 1 with scales that lie between two bfloat16 numbers, ties among them, and what is not finite."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.randn(64, 37, generator=generator)
    scale[:, :4] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3e-39])
    scale[:, 4:8] = torch.tensor([float("inf"), float("-inf"), 3.4e38, 0.0])
    scale[:, 9] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    x = torch.ones(64, 37, 5, 7, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    weight = torch.ones(37, 1, 1, 1, dtype=torch.bfloat16)
    x = x[:, :groups]
    y = dynamic_conv2d(x, weight, scale=scale, groups=groups, backend="native")
    expected = scale.to(torch.bfloat16)[:, :, None, None].expand_as(y)
    numbers = ~scale.isnan()
    assert torch.equal(y[numbers].view(torch.int16), expected[numbers].contiguous().view(torch.int16))
    assert y[~numbers].isnan().all()


@pytest.mark.parametrize("layout", ["planes", "channels_last", "expanded"])
def test_depthwise_gradients_are_right_for_any_memory_format_of_the_incoming_one(layout: str) -> None:
    for name in ("depthwise, full block", "depthwise, full blocks and one more", "depthwise, strided"):
        given = tensors(DEPTHWISE[name], torch.float32)
        exact = in_double(given)
        y = run(dynamic_conv2d, given, DEPTHWISE[name], backend="native")
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
        if layout == "channels_last":
            dy = dy.contiguous(memory_format=torch.channels_last)
        elif layout == "expanded":
            dy = dy[:, :, :1, :1].expand(y.shape)
        expected = gradients(run(reference.dynamic_conv2d, exact, DEPTHWISE[name]), exact, dy.double())
        for what, gradient in gradients(y, given, dy).items():
            assert_agrees(gradient, expected[what], what=f"gradient of {what}, {name}")


@pytest.mark.parametrize("num_bases", [1, 2, 5, 9])
def test_agrees_for_any_number_of_bases(num_bases: int) -> None:
    case = Case(basis=3, scale=True, inputs=6)
    given = tensors(case, torch.float32, num_bases=num_bases)
    exact = in_double(given)
    y, expected = run(dynamic_conv2d, given, case, backend="native"), run(reference.dynamic_conv2d, exact, case)
    assert_agrees(y, expected)
    dy = torch.ones_like(y)
    theirs = gradients(expected, exact, dy.double())
    for name, gradient in gradients(y, given, dy).items():
        assert_agrees(gradient, theirs[name], what=name)


@pytest.mark.parametrize("threads", [1, 3, 7])
def test_any_number_of_threads_gives_the_same_answer_every_time(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        dense = ("several blocks", "many samples", "groups of several blocks", "one sample", "blocks of rows")
        lanes = ("depthwise", "depthwise, one sample", "depthwise, windows of rows")
        for name in (*dense, *lanes):
            case = EVERY[name]
            check(case, torch.float32)
            given = tensors(case, torch.float32)
            runs = []
            for _ in range(2):
                y = run(dynamic_conv2d, given, case, backend="native")
                runs.append([y, *gradients(y, given, torch.ones_like(y)).values()])
            assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    finally:
        torch.set_num_threads(before)


def test_each_gradient_is_right_whichever_others_are_wanted_and_none_other_is_computed() -> None:
    dense = (Case(scale=True), Case(basis=3, scale=True), Case(basis=3, static=False), Case(basis=0, scale=True))
    for case in (*dense, *(replace(case, inputs=6, groups=6) for case in dense)):
        given = tensors(case, torch.float32)
        problem = Problem(**{k: None if t is None else t.detach() for k, t in given.items()}, **case.geometry)
        grad = torch.randn(3, 6, *problem.output_size, generator=torch.Generator().manual_seed(3))
        all_of_them = native.backward(problem, grad, Mask(*(t is not None for t in given.values())))
        for wanted in itertools.product((True, False), repeat=6):
            mask = Mask(*(w and t is not None for w, t in zip(wanted, given.values(), strict=True)))
            for gradient, whole, want in zip(native.backward(problem, grad, mask), all_of_them, mask, strict=True):
                assert (gradient is not None) == want
                assert gradient is None or torch.equal(gradient, whole)


def test_channels_last_stays_so_and_expanded_inputs_are_read() -> None:
    case = Case(channels_last=True, basis=3)
    given = tensors(case, torch.float32)
    assert run(dynamic_conv2d, given, case, backend="native").is_contiguous(memory_format=torch.channels_last)
    one = given["x"].detach()[:1].expand(3, -1, -1, -1)
    expanded = {**given, "x": one}
    copied = {**given, "x": one.contiguous(memory_format=torch.channels_last)}
    results = [run(dynamic_conv2d, g, case, backend="native") for g in (expanded, copied)]
    assert torch.equal(*results)


def test_what_it_cannot_run_is_refused_with_the_reason() -> None:
    given = tensors(Case(), torch.float64)
    with pytest.raises(ValueError, match=r"native.*dtype torch.float64; it takes torch.float32 and torch.bfloat16"):
        run(dynamic_conv2d, given, Case(), backend="native")
    given = {k: t.detach().to("meta") for k, t in tensors(Case(), torch.float32).items() if t is not None}
    problem = Problem(**{"scale": None, **given}, **Case().geometry)
    assert "runs on the CPU, and x is on meta" in native.reasons(problem)[0]
    kernel = torch.empty(1, 1, 3, 3)
    for height, width, dilation in ((2**13, 2**12, 1), (8, 2**19, 1), (2000, 2000, 400)):
        image = torch.empty(1).expand(1, 1, height, width)
        problem = Problem(image, kernel, None, None, None, None, (1, 1), (1, 1), (dilation, 1), 1)
        assert "it takes fewer than 33554432 and 1048576" in native.reasons(problem)[0]
        with pytest.raises(RuntimeError, match="too large for the native operator"):
            y = torch.empty(1).expand(1, 1, *problem.output_size)
            torch.ops.dynconv.dynamic_conv2d_native_forward(y, image, kernel, *[None] * 4, *problem.geometry())


def test_a_wrong_call_of_the_operator_itself_is_refused_before_memory_is_touched() -> None:
    case = Case(basis=3)
    given = {k: None if t is None else t.detach().contiguous() for k, t in tensors(case, torch.float32).items()}
    rest = [given["weight"], given["bias"], None, given["basis"], given["coefficients"]]
    geometry = ([1, 1], [1, 1], [1, 1], 1)
    operator = torch.ops.dynconv.dynamic_conv2d_native_forward

    def call(y: torch.Tensor, *changed: tuple[int, torch.Tensor | None]) -> None:
        arguments = list(rest)
        for place, value in changed:
            arguments[place] = value
        operator(y, given["x"], *arguments, *geometry)

    right = torch.empty(3, 6, 9, 7)
    call(right)
    for y, changed, message in (
        (torch.empty(3, 6, 9, 8), (), "size of the convolution"),
        (torch.empty(2, 6, 9, 7), (), r"must be \(B, C, H, W\)"),
        (right, ((0, given["weight"][:, :3]),), "weight does not fit"),
        (right, ((1, torch.zeros(5)),), "bias must be"),
        (right, ((3, given["basis"][:6]),), "basis does not fit"),
        (right, ((3, None),), "basis goes with coefficients"),
        (right, ((4, given["coefficients"].double()),), "coefficients must be"),
        (right, ((3, given["basis"][:0]), (4, given["coefficients"][:, :0])), r"coefficients must be \(B, K\)"),
        (right, ((0, given["weight"][:, :, :0]), (3, None), (4, None)), "a kernel has taps"),
        (right, ((0, given["weight"].transpose(2, 3)),), "taps of weight must lie at one stride"),
        (right.double(), (), "y must be float32 or bfloat16"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call(y, *changed)


def test_the_gradients_of_an_empty_batch_are_zeros_in_the_operator_itself_too() -> None:
    weight, dweight = torch.ones(6, 4, 3, 3), torch.full((6, 4, 3, 3), 7.0)
    x, grad = torch.empty(0, 4, 9, 7), torch.empty(0, 6, 9, 7)
    rest = (weight, None, None, None, [1, 1], [1, 1], [1, 1], 1)
    torch.ops.dynconv.dynamic_conv2d_native_backward(None, dweight, None, None, None, grad, x, *rest)
    assert torch.equal(dweight, torch.zeros_like(dweight))
    with pytest.raises(RuntimeError, match="dscale goes with weight and scale"):
        torch.ops.dynconv.dynamic_conv2d_native_backward(None, None, torch.empty(0, 6), None, None, grad, x, *rest)


def test_a_stride_over_millions_of_rows_stays_within_its_buffers() -> None:
    # One channel seen 164 times: 2.2 billion places, of which 54 MB are memory.
    image = (torch.arange(1_936_701 * 7.0) % 13).view(1, 1, -1, 7).expand(1, 164, -1, -1)
    weight = torch.ones(1, 164, 1, 1)
    y = dynamic_conv2d(image, weight, stride=(10700, 1), backend="native")
    torch.testing.assert_close(y, 164 * image[:, :1, ::10700])


NEEDS = {"baseline": set(), "avx2": {"avx2", "fma"}}
# An instruction set is chosen at the first call: one process imports torch and pytest, and forks before it.
PROGRAM = """
import os, sys
import pytest, torch
from dynconv.functional import dynamic_conv2d
torch.set_num_threads(1)
folder, *words = sys.argv[1:]
for name in ("baseline", "avx2", "sse9"):
    if child := os.fork():
        print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        continue
    log = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1), os.dup2(log, 2)
    os.environ["DYNCONV_CPU_ISA"] = name
    if name != "sse9":
        code = pytest.main(words)
    else:
        try:
            code = dynamic_conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 1, 1), backend="native").dim()
        except RuntimeError as error:
            code = 0
            print(error)
    sys.stdout.flush()
    os._exit(code)
"""


@pytest.fixture(scope="module")
def narrower(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit status and output of these tests with each narrower instruction set, and of a call with an unknown one."""
    if "DYNCONV_CPU_ISA" in os.environ:
        pytest.skip("DYNCONV_CPU_ISA is set: this is the process of one of these tests")
    folder = tmp_path_factory.mktemp("narrower")
    words = ["-q", "-x", "-p", "no:cacheprovider", __file__, "-k", "agrees_with_the_oracle or any_number_of_bases"]
    command = [sys.executable, "-c", PROGRAM, str(folder), *words]
    # Not in the root, whose package would hide an installed one, that of `make sanitize` among them.
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    statuses = dict(line.split() for line in done.stdout.splitlines())
    return {name: (int(status), (folder / name).read_text()) for name, status in statuses.items()}


@pytest.mark.parametrize("name", NEEDS)
def test_a_narrower_instruction_set_passes_the_same_tests(name: str, narrower: dict[str, tuple[int, str]]) -> None:
    if missing := NEEDS[name] - set(info()["native"].get("processor", [])):
        pytest.skip(f"this processor has no {', '.join(sorted(missing))}")
    status, output = narrower[name]
    assert status == 0, output[-3000:]
    assert " passed" in output


def test_an_unknown_instruction_set_is_named(narrower: dict[str, tuple[int, str]]) -> None:
    status, output = narrower["sse9"]
    assert status == 0, output
    assert "DYNCONV_CPU_ISA is sse9; this processor runs baseline" in output


def test_cases_meet_the_paths_they_are_named_for() -> None:
    """The largest blocks (AVX-512: 32 lanes; 640 KB panels; 160 KB of sums) are exceeded, so every narrower one is."""
    panel = LARGE["panels of the reduction"]
    assert panel.inputs * 9 * 32 * 4 * 4 > 640 << 10
    rows = LARGE["blocks of rows"]
    assert rows.height * rows.width * 32 * 4 > 2 * (160 << 10)
    window = DEPTHWISE["depthwise, windows of rows"]
    assert window.height * window.width * 2 * 32 * 4 > 512 << 10
    # Of every instruction set: 70 channels are at least 72 lanes.
    rounds = DEPTHWISE["depthwise, several rounds of samples"]
    assert rounds.batch * rounds.kernel**2 * 72 * 4 > 4 << 20

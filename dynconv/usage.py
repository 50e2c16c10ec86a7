"""What `dynconv --help` and the help of its commands print, where tyro does not write it from the options."""

from __future__ import annotations

import sys
from collections.abc import Sequence

USAGE = """usage: dynconv COMMAND ...

Dynamic convolution for PyTorch, and unsupervised domain adaptation with it.

commands:
  train METHOD     train a method on labelled sources and an unlabelled target; goes on with what was interrupted
  match RUN        adapt a run's network to a target in closed form (Gaussian matching), without training
  eval RUN         measure a run's checkpoint on its own domains or on another one
  predict RUN DIR  class and confidence of every image below a folder, as CSV; of segmentation a label map of each
  export RUN       write the adapted model as a torch.export program or ONNX, its calibrator alone, or stylised images
  data ACTION      list the data sets and protocols, check files against what is published, draw samples of a set,
                   bound what a model of driving scenes can score by the classes' frequencies
  plot FIGURE      draw runs: what they logged, their dynamic coefficients, what they cost on the sources, what their
                   calibrators do
  runs [DIR]       what ran below a folder (default: runs), what is unfinished, and what came out
  report RUN       gather runs in one report: tables, figures, how they were made; as Markdown, LaTeX and one HTML page
  reproduce TABLE  train every run of a table of a paper that is not finished, and print it beside the paper's
  bench [OP]       time the operators and whole training steps beside the static convolution and other ways
  info             versions, native build, and for each backend whether it can run here or why not; of a backbone: its
                   parameters and multiply-adds, static and dynamic

`dynconv COMMAND --help` tells each one's options. A first run that needs no files:
  dynconv train drt --protocol embedded:optical --max-steps 500 --out runs/first
"""

TRAIN_USAGE = """usage: dynconv train METHOD --protocol NAME [options]
       dynconv train METHOD --source NAME=DIR [NAME=DIR ...] --target NAME=DIR [options]

methods:
{methods}

`dynconv train METHOD --help` tells a method's options.
"""

PLOT_USAGE = """usage: dynconv plot FIGURE RUN [RUN ...] [--out PNG] [options]

figures:
  training      losses, gradients of the levels, discriminators, selection and accuracies over the steps
  coefficients  dynamic coefficients of test images: t-SNE by domain and by class, histograms of each layer
  degradation   accuracy on each source less that of its oracle, a network trained on it alone (--oracles RUN [RUN ...])
  trade-off     target accuracy over source accuracy, before and after adaptation, means over seeds
  epsilon       source and target accuracy of calibrators over epsilon, the bound of their perturbation: of runs that
                differ in it, or of one RUN whose perturbation is clamped to smaller bounds (--sweep)
  curves        target accuracy over the steps, of several runs in one picture, with the drift of their weights
  sweep         target accuracy over a field of the method: GAM's taps, its lambda (--field NAME)
  fine-tuning   target accuracy over the number of labelled target images, fine-tuned from networks with and without an
                adaptation: how many labels that is worth
  stream        accuracy over time where source and targets take turns: without a calibrator, with the same one for
                all of them, and with each target's own
  scenes        test scenes of segmentation beside their label maps: ground truth, before adaptation and after, or of
                several runs what each one makes of them
  spectra       test images before and after a calibrator, their spectra, the share of energy at high frequencies
  predictions   confusions on source and target, of the classifier alone and behind its calibrator
  perturbation  accuracy against size: a calibrator's perturbation beside FGSM's and random ones
  source-or-not  activations of one unit on two images: are both of one domain? a classifier's answers for every layer,
                and with --play yours

`dynconv plot FIGURE --help` tells each one's options.
"""

REPRODUCE_USAGE = """usage: dynconv reproduce TABLE|--all [--seeds N] [--data-root DIR] [--out DIR] [options]

{tables}

What was interrupted goes on with the same command. `dynconv reproduce TABLE --dry-run` lists a table's runs, what they
cost and what to expect of them, `dynconv reproduce TABLE --help` the options. `dynconv reproduce --all`
makes every table that the data below the data root allow, and RESULTS.md of them (--hours H: begins no run after H
hours).
"""

BENCH_USAGE = """usage: dynconv bench [OP] [--device auto|cpu|cuda] [--out CSV] [--quick] [options]

operations:
  dynamic_conv2d   the convolution (the default)
  coefficients     pooling, two layers, softmax and scale
  feature_gradient_norms  norms of discriminators' feature gradients
  drt-step         a whole training step of a ResNet or LeNet
  gsda-step        a whole training step of GSDA with gradient synchronisation, beside one without
  segmentation     training steps and inference of the segmentation networks, dynamic beside static
  loader           image files to batches, by every cache, beside what training steps take

`dynconv bench OP --help` tells each one's options; the README.md of the package dynconv.bench how to read a table,
`python -m dynconv.bench.compare` and `python -m dynconv.bench.plot` compare and draw them.
"""

INFO_USAGE = """usage: dynconv info
       dynconv info --backbone NAME [--classes N] [--image-size H W] [--json]

Versions, native build, and for each backend whether it can run here or why not.

With --backbone: parameters and multiply-adds of that network, static and with each kind of dynamic convolution.
  --classes N         count the head for N classes too (a network that labels every pixel is counted with one of 19)
  --image-size H W    size of the images of a network that labels every pixel (512 1024)
  --json              one JSON object instead of a table
"""


def asks_for_help(args: Sequence[str]) -> bool:
    """Whether a command was given nothing to do, or is asked for its help."""
    return not args or args[0] in ("-h", "--help")


def show_usage(usage: str, args: Sequence[str]) -> int:
    """Print `usage` where help was asked for; on standard error where no word was given. Returns the exit code."""
    print(usage, end="", file=sys.stdout if args else sys.stderr)
    return 0 if args else 2

"""The words, exit codes and messages that scripts rely on."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import fails
from PIL import Image

from dynconv import cli, commands, ending
from dynconv.engine.config import load_config
from dynconv.engine.options import parse_train
from dynconv.engine.run_folder import RunFolder
from dynconv.methods import METHODS
from dynconv.report.figures import commands as plot_commands
from dynconv.usage import BENCH_USAGE, PLOT_USAGE


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`--source ... --target ...` of two small domains."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for domain in ("one", "two"):
        for label in range(2):
            (root / domain / str(label)).mkdir(parents=True)
            for index in range(8):
                image = generator.integers(0, 128, (32, 32, 3), dtype=np.uint8) + np.uint8(100 * label)
                Image.fromarray(image).save(root / domain / str(label) / f"{index}.png")
    return ["--source", f"one={root / 'one'}", "--target", f"two={root / 'two'}"]


SHORT = ["--max-steps", "2", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of source-only with the options `SHORT`."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert cli.main(["train", "source-only", *data, *SHORT, "--out", str(out)]) == 0
    return out


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> RunFolder:
    """A copy of `trained` for one test."""
    return RunFolder(Path(shutil.copytree(trained, tmp_path / "run")))


def test_train_writes_a_run_and_prints_its_selection(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.main(["train", "source-only", *data, *SHORT, "--out", str(out), "--lr", "0.5"]) == 0
    captured = capsys.readouterr()
    words = ("before", "last", "source-val", "label-free", "oracle", "target-test/two,", "mean over classes")
    for word in (*words, "information-maximisation *", "deep-embedded-validation"):
        assert word in captured.out
    assert "accuracy-of" not in captured.out
    assert "step 2/2" in captured.err
    assert f"curves of the training: {out}/training.png" in captured.out
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    config = load_config(out / "config.yaml")
    assert (config.run.max_steps, config.options.lr) == (2, 0.5)
    # The same command again finds the run finished.
    assert cli.main(["train", "source-only", *data, *SHORT, "--out", str(out), "--lr", "0.5"]) == 0
    assert "finished before" in capsys.readouterr().err


def test_eval_prints_a_table_and_json(data: list[str], folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    out, row = str(folder.path), folder.rows()[-1]
    capsys.readouterr()
    assert cli.main(["eval", out, "--device", "cpu"]) == 0
    table = capsys.readouterr().out
    assert "target-test/two/accuracy" in table and "target-test/two/class-mean-accuracy" in table
    assert "accuracy-of" not in table and "2 classes" in table
    assert cli.main(["eval", out, "--json", "--device", "cpu"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    for name in ("accuracy", "class-mean-accuracy", "accuracy-of-0", "accuracy-of-1"):
        assert metrics[f"target-test/two/{name}"] == row[f"target-test/two/{name}"]
    assert cli.main(["eval", out, "--json", "--domain", data[1].replace("one=", "new="), "--device", "cpu"]) == 0
    assert "test/new/accuracy" in json.loads(capsys.readouterr().out)


def test_a_config_file_gives_the_defaults_and_flags_override_it(data: list[str], tmp_path: Path) -> None:
    first = parse_train("drt", [*data, *SHORT, "--lr", "0.125", "--seed", "7"])
    path = tmp_path / "config.yaml"
    path.write_text(first.to_yaml())
    assert parse_train("drt", ["--config", str(path)]).identity() == first.identity()
    changed = parse_train("drt", [f"--config={path}", "--seed", "8", "--epochs", "3", "--protocol", "embedded:plain"])
    assert (changed.run.seed, changed.run.epochs, changed.run.max_steps) == (8, 3, None)
    assert (changed.run.protocol, changed.run.source, changed.run.target) == ("embedded:plain", (), None)
    assert (changed.run.batch_size, changed.options.lr) == (8, 0.125)
    path.write_text(changed.to_yaml())
    assert parse_train("drt", ["--config", str(path), *data]).run.protocol is None
    with pytest.raises(ValueError, match="'drt'.*'mcd'"):
        parse_train("mcd", ["--config", str(path)])


def test_wrong_use_is_answered_with_code_2_and_one_message(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert "train, match, eval, predict, export, data, plot, runs, report" in fails(capsys, "trian")
    assert ", ".join(METHODS) in fails(capsys, "train", "no-such")
    assert "--lamda" in fails(capsys, "train", "drt", *data, *out, "--lamda", "3")
    assert "--batch-size" in fails(capsys, "train", "drt", *data, *out, "--batch-size", "many")
    assert "at least 1, got 0" in fails(capsys, "train", "drt", *data, *out, "--batch-size", "0")
    assert "contradict" in fails(capsys, "train", "drt", *data, *out, "--epochs", "1", "--max-steps", "1")
    assert "contradict" in fails(capsys, "train", "drt", *data, *out, "--protocol", "mnist-usps")
    assert "divided among 2 processes" in fails(
        capsys, "train", "drt", *data, *out, "--devices", "2", "--batch-size", "9"
    )
    assert "lenet-m3sda" in fails(capsys, "train", "drt", *data, *out, "--backbone", "resnet-50")
    assert "lr" in fails(capsys, "train", "drt", *data, *out, "--lr", "-1")
    assert "--protocol" in fails(capsys, "train", "drt", *out)
    assert "mnist" in fails(capsys, "train", "drt", *out, "--protocol", "mnits-usps")
    assert "none.yaml" in fails(capsys, "train", "drt", *out, "--config", str(tmp_path / "none.yaml"))
    assert "NAME=DIR" in fails(capsys, "train", "drt", *out, "--source", "folder", *data[2:])
    assert "no run folder" in fails(capsys, "eval", str(tmp_path / "run"))
    assert "--verbose" in fails(capsys, "info", "--verbose")
    assert not (tmp_path / "run").exists()


def test_options_that_do_not_fit_the_backbone_are_refused(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "source-only", *data, *SHORT, "--out", str(tmp_path / "run")]
    assert "--ten-crop is for images of 224 x 224" in fails(capsys, *words, "--ten-crop")
    assert "'none' is for lenet-small" in fails(capsys, *words, "--backbone", "resnet-small", "--norm", "none")
    assert "ImageNet weights of resnet50" in fails(capsys, *words, "--weights", "imagenet")
    assert "there is no such file" in fails(capsys, *words, "--weights", str(tmp_path / "none.pth"))
    assert "crop-flip" in fails(capsys, *words, "--augmentation", "mixup")
    assert not (tmp_path / "run").exists()


def test_files_are_known_from_another_directory(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_train("source-only", [*data, "--weights", "a/b.pth"]).options.weights == f"{tmp_path}/a/b.pth"
    for word in ("auto", "none"):
        assert parse_train("source-only", [*data, "--weights", word]).options.weights == word
    started = ["--source-checkpoint", "a/last.pt"]
    assert parse_train("calibrator", [*data, *started]).options.source_checkpoint == f"{tmp_path}/a/last.pt"
    assert parse_train("calibrator", data).options.source_checkpoint == ""


def test_a_small_resnet_trains_on_its_64_pixels(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    words = ["train", "source-only", *data, *SHORT, "--out", out, "--backbone", "resnet-small", "--bottleneck", "8"]
    assert cli.main(words) == 0
    capsys.readouterr()
    assert cli.main(["eval", out, "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 2


def test_plot_draws_runs_finished_or_not(
    data: list[str], folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(folder.path), str(tmp_path / "two")]
    assert cli.main(["train", "source-only", *data, *SHORT, "--out", runs[1], "--seed", "1"]) == 0
    folder.training_figure.unlink()
    folder.done.unlink()
    capsys.readouterr()
    assert cli.main(["plot", "training", runs[0]]) == 0
    assert capsys.readouterr().out == f"{folder.training_figure}\n"
    assert folder.training_figure.exists()
    both = tmp_path / "figures" / "both.svg"
    assert cli.main(["plot", "training", *runs, "--out", str(both)]) == 0
    assert capsys.readouterr().out == f"{both}\n"
    assert "<svg" in both.read_text()
    assert "--out is missing: 2 runs" in fails(capsys, "plot", "training", *runs)
    assert "given twice" in fails(capsys, "plot", "training", runs[0], runs[0], "--out", str(both))
    assert "no run folder" in fails(capsys, "plot", "training", str(tmp_path))
    assert "cannot be written" in fails(capsys, "plot", "training", runs[0], "--out", "/proc/x.png")
    assert "one of training, coefficients, degradation, " in fails(capsys, "plot", "graph", runs[0])
    assert "RUN" in fails(capsys, "plot", "training")
    folder.training.write_text("broken\n")
    assert "training.jsonl, line 1, is damaged" in fails(capsys, "plot", "training", runs[0])


def test_a_picture_that_cannot_be_drawn_does_not_hide_the_result(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    words = ["train", "source-only", *data, *SHORT, "--out", str(out)]
    (out / "config.yaml").write_text(parse_train("source-only", words[2:]).to_yaml())
    (out / "training.png").mkdir()
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert "target-test/two" in captured.out
    assert "the run is finished and whole, its picture is not" in captured.err


def test_missing_data_says_where_it_looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "nothing-here"
    root.mkdir()
    words = ["train", "drt", "--protocol", "mnist-usps", "--data-root", str(root), "--out", str(tmp_path / "run")]
    assert "nothing-here" in fails(capsys, *words)
    assert not (tmp_path / "run").exists()


def test_another_configuration_in_the_folder_names_the_fields(
    data: list[str], folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "source-only", *data, *SHORT, "--out", str(folder.path)]
    message = fails(capsys, *words, "--seed", "5", "--lr", "0.75")
    assert "seed: 0 -> 5" in message and "source-only.lr: 0.0002 -> 0.75" in message


def test_a_folder_that_cannot_be_made_is_named(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for out in ("/dev/null/run", "/proc/run"):
        message = fails(capsys, "train", "source-only", *data, *SHORT, "--out", out)
        assert f"--out {out} cannot be used" in message and "give a folder" in message


def test_damaged_files_of_a_run_are_named_with_what_to_do(
    data: list[str], folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "source-only", *data, *SHORT, "--out", str(folder.path)]
    for text in ("{}", '{"selected', '{"config_hash": "a", "selected": {}}', '{"selected": {"last": {"step": 1}}}'):
        folder.done.write_text(text)
        message = fails(capsys, *words)
        assert f"{folder.done} is damaged" in message and "delete it" in message
    folder.done.unlink()
    for path, text, remedy in (
        (folder.environment, '[{"step"', "delete it"),
        (folder.environment, "{}", "delete it"),
        (folder.results, "broken\n", "delete the line"),
        (folder.results, "{}\n", "delete the line"),
        (folder.results, "[1]\n", "delete the line"),
    ):
        whole = path.read_text()
        path.write_text(text)
        message = fails(capsys, *words)
        assert str(path) in message and "is damaged" in message and remedy in message
        path.write_text(whole)
    for checkpoint in (folder.last, folder.previous):
        torch.save({}, checkpoint)
    message = fails(capsys, *words)
    assert f"{folder.last} cannot be read" in message and str(folder.previous) in message and "delete" in message
    message = fails(capsys, "eval", str(folder.path), "--device", "cpu")
    assert str(folder.last) in message and "its end is missing" in message


def test_a_run_whose_mark_of_the_end_was_deleted_ends_again(data: list[str], folder: RunFolder) -> None:
    words = ["train", "source-only", *data, *SHORT, "--out", str(folder.path)]
    done = folder.done.read_text()
    folder.done.unlink()
    assert cli.main(words) == 0
    assert folder.done.read_text() == done


def test_a_fault_of_ours_is_not_dressed_up_as_wrong_use(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(METHODS["source-only"], "updates", broken)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["train", "source-only", *data, *SHORT, "--out", str(tmp_path / "run")])


def test_divergence_ends_with_code_1_and_no_traceback(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "source-only", *data, "--max-steps", "40", "--batch-size", "8", "--device", "cpu"]
    words += ["--norm", "none", "--optimiser", "sgd", "--lr", "1e30", "--log-every", "1", "--eval-every", "40"]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    assert "diverged" in message and "Traceback" not in message


@pytest.mark.parametrize(
    "command", [[], ["train"], ["train", "drt"], ["eval"], ["plot"], ["plot", "training"], ["info"]]
)
def test_help_exits_with_0_and_reads_as_text(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main([*command, "--help"])
    except SystemExit as stop:
        code = stop.code
    assert code == 0
    text = capsys.readouterr().out
    assert "usage: " in text
    assert "--method." not in text and "--run." not in text, "flags are flat"


def test_every_figure_that_is_named_is_drawn_and_told_of() -> None:
    assert tuple(plot_commands.FIGURES) == commands.FIGURES
    assert all(f"\n  {figure} " in PLOT_USAGE for figure in commands.FIGURES)
    assert all(f"\n  {operation} " in BENCH_USAGE for operation in commands.BENCHMARKS)


def test_help_names_every_contract_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "drt", "--help"])
    text = capsys.readouterr().out
    flags = "protocol source target backbone data-root out seed epochs max-steps config device devices precision resume"
    flags += " batch-size augmentation ten-crop weights bottleneck discrepancy-weight num-bases"
    for flag in flags.split():
        assert f"--{flag} " in text or f"--{flag}, --no-{flag} " in text


def test_no_command_is_wrong_use_and_lists_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(command in fails(capsys) for command in ("train METHOD", "eval RUN", "plot FIGURE", "info"))
    assert "source-only" in fails(capsys, "train")


def test_missing_packages_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ending.PACKAGES, "train", ("torch", "not_a_package"))
    message = fails(capsys, "train", "drt")
    assert "not_a_package" in message and "dynconv[train]" in message


def test_info_prints_versions_and_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert "torch" in text and "backends of dynamic_conv2d" in text


def test_info_and_help_import_no_training_package() -> None:
    code = (
        "import sys; from dynconv import cli; cli.main(['--help']); cli.main(['info']);"
        "sys.exit(', '.join(set(sys.modules) & {'lightning', 'tyro', 'torchvision', 'tensorboard', 'rich'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.strip() == ""


def test_ctrl_c_writes_a_checkpoint_says_how_to_resume_and_exits_with_130(data: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", "source-only", *data, "--max-steps", "100000", "--batch-size", "8", "--device", "cpu"]
    command = [sys.executable, "-m", "dynconv", *words, "--out", str(out), "--log-every", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 2/"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert (out / "checkpoints" / "last.pt").exists()
    assert f"dynconv train source-only --config {out}/config.yaml --out {out}" in rest
    assert "Traceback" not in rest


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m dynconv train drt --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")

"""`dynconv data check NAME --download`: torchvision's own code, with a server of this process for its servers."""

from __future__ import annotations

import functools
import gzip
import hashlib
import inspect
import shlex
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from command_line import fails
from publishers_digits import write_svhn
from publishers_files import write_digits
from torchvision import datasets

from dynconv import cli
from dynconv.data.digits import REAL

Capture = pytest.CaptureFixture[str]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a server on this machine gives away in the publishers' place: small sets."""
    files, served = tmp_path / "files", tmp_path / "server"
    files.mkdir()
    served.mkdir()
    write_digits(files)
    write_svhn(files)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(served))) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{http.server_port}/"
        resources = []
        for raw in sorted((files / "MNIST" / "raw").iterdir()):
            packed = gzip.compress(raw.read_bytes(), mtime=0)
            (served / f"{raw.name}.gz").write_bytes(packed)
            resources.append((f"{raw.name}.gz", hashlib.md5(packed).hexdigest()))
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        monkeypatch.setattr(datasets.MNIST, "resources", resources)
        for dataset, names in (
            (datasets.USPS, {"train": "usps.bz2", "test": "usps.t.bz2"}),
            (datasets.SVHN, {"train": "train_32x32.mat", "test": "test_32x32.mat"}),
        ):
            splits = {}
            for part, name in names.items():
                content = (files / name).read_bytes()
                (served / name).write_bytes(content)
                splits[part] = (f"{address}{name}", name, hashlib.md5(content).hexdigest())
            monkeypatch.setattr(dataset, "split_list", splits)
        yield served
        http.shutdown()
        thread.join()


def check(*words: str) -> int:
    return cli.main(["data", "check", *words])


def below(root: Path) -> set[str]:
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}


MNIST = {f"MNIST/raw/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")}


@pytest.mark.usefixtures("server")
def test_what_is_missing_is_fetched_and_then_checked(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "new" / "root"
    # That the small sets are not the published ones is all that is left to complain about.
    assert check("mnist", "usps", "svhn", "mnist_m", "--data-root", str(root), "--download", "--subset") == 2
    out, told = capsys.readouterr()
    assert [line for line in told.splitlines() if "--download" in line] == [
        "dynconv: --download: mnist_m: torchvision does not have these; `dynconv data list NAME` tells where to get "
        "each"
    ]
    assert "mnist, train: 60 of 60,000 images: a subset" in out and "usps, test: 20 of 2,007 images: a subset" in out
    assert "svhn, train: 24 of 73,257 images: a subset" in out
    assert "mnist_m: not found below" in out, "torchvision has no MNIST-M"
    assert "unreadable" not in out and "cannot be read" not in out
    assert below(root) == MNIST | {"usps.bz2", "usps.t.bz2", "train_32x32.mat", "test_32x32.mat"}
    assert out.lstrip().startswith("images by split"), "what torchvision prints is no result"


def test_what_is_there_is_left_alone(tmp_path: Path, server: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "usps.bz2").write_bytes(b"mine")
    check("usps", "--data-root", str(root), "--download")
    assert (root / "usps.bz2").read_bytes() == b"mine"
    assert (root / "usps.t.bz2").read_bytes() == (server / "usps.t.bz2").read_bytes()


@pytest.mark.parametrize("name", ["mnist", "usps"])
def test_what_is_all_there_asks_no_server(name: str, tmp_path: Path, server: Path, capsys: Capture) -> None:
    for file in server.iterdir():
        file.unlink()
    check(name, "--data-root", str(tmp_path / "files"), "--download", "--subset")
    captured = capsys.readouterr()
    assert f"{name}, train: 60 of " in captured.out and "download" not in captured.err


def test_a_server_that_does_not_answer_is_one_line(tmp_path: Path, server: Path, capsys: Capture) -> None:
    (server / "usps.t.bz2").unlink()
    root = tmp_path / "root"
    assert check("usps", "--data-root", str(root), "--download") == 2
    error = capsys.readouterr().err
    assert f"dynconv: error: usps: torchvision could not download it to {root}: HTTP Error 404" in error
    assert "Traceback" not in error
    assert below(root) == set(), "half a set would not be fetched again"


@pytest.mark.parametrize(
    ("name", "file"), [("mnist", "t10k-images-idx3-ubyte.gz"), ("usps", "usps.bz2"), ("svhn", "test_32x32.mat")]
)
def test_a_file_with_another_digest_is_refused(
    name: str, file: str, tmp_path: Path, server: Path, capsys: Capture
) -> None:
    (server / file).write_bytes(b"<html>moved</html>")
    root = tmp_path / "root"
    assert check(name, "--data-root", str(root), "--download") == 2
    assert f"{name}: torchvision could not download it to {root}: " in capsys.readouterr().err
    assert below(root) == set()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "root").write_text("a file")
    assert check("usps", "--data-root", str(tmp_path / "root"), "--download") == 2
    assert "could not download it to" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mnist", "usps", "svhn"])
def test_torchvision_understands_what_is_asked_of_it(name: str, tmp_path: Path) -> None:
    download = REAL[name].download
    assert download is not None and download.name == name
    command = shlex.split(download.command(tmp_path / "a folder"))
    assert command == ["dynconv", "data", "check", name, "--data-root", str(tmp_path / "a folder"), "--download"]
    accepted = inspect.signature(getattr(datasets, download.dataset).__init__)
    splits = [accepted.bind(None, "root", **part, download=True).arguments for part in download.parts]
    assert [each.get("split", each.get("train")) for each in splits] in ([True, False], ["train", "test"])


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--download", "--data-root", "somewhere"], "--download: expected the NAMEs to fetch"),
        (["usps", "--download"], "--download: no place to put it; give --data-root"),
    ],
)
def test_a_download_of_nothing_or_to_nowhere_is_refused(
    words: list[str], wanted: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DYNCONV_DATA", raising=False)
    assert wanted in fails(capsys, "data", "check", *words)

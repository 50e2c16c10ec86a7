"""`make docs` without its installation: the site builds, and any warning is an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for package in ("furo", "myst_parser", "sphinx"):
        pytest.importorskip(package, reason="pip install dynconv[docs]")
    site = tmp_path / "html"
    arguments = ["--builder", "html", "--fail-on-warning", "--keep-going", "--quiet"]
    command = [
        sys.executable,
        "-m",
        "sphinx",
        *arguments,
        "--doctree-dir",
        str(tmp_path / "read"),
        str(DOCS),
        str(site),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reference = (site / "api" / "nn.html").read_text()
    assert 'id="dynconv.nn.DynamicConv2d"' in reference and "basis_kernel_size" in reference
    assert "drt-digits" in (site / "results.html").read_text()

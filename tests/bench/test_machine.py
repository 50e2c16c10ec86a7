"""Free memory: a container's limit counts, of both versions of cgroups, wherever on the path it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dynconv.bench import machine
from dynconv.bench.machine import cgroup_free_bytes, free_bytes


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def test_the_tightest_limit_on_the_path_of_version_2_counts(tmp_path: Path, own: Path) -> None:
    own.write_text("0::/outer/inner\n")
    root = tmp_path / "fs"
    write(root, memory__stat="anon 5")
    write(root / "outer", memory__max=1000, memory__current=700, memory__stat="anon 1\ninactive_file 50")
    write(root / "outer" / "inner", memory__max="max", memory__current=600)
    assert cgroup_free_bytes(root, own) == 350
    write(root / "outer" / "inner", memory__max=610)
    assert cgroup_free_bytes(root, own) == 10
    write(root / "outer" / "inner", memory__max=500)
    assert cgroup_free_bytes(root, own) == 0
    # The path is the host's, and the container's mount has its own files alone.
    own.write_text("0::/elsewhere\n")
    write(root, memory__max=90, memory__current=20)
    assert cgroup_free_bytes(root, own) == 70


def test_version_1_has_its_own_names_and_a_missing_one_no_limit(tmp_path: Path, own: Path) -> None:
    root = tmp_path / "fs"
    assert cgroup_free_bytes(root, own) == 1 << 62
    own.write_text("9:cpu,cpuacct:/job\n4:memory:/job\n0::/\n")
    assert cgroup_free_bytes(root, own) == 1 << 62
    stat = "inactive_file 3\ntotal_inactive_file 30"
    write(root / "memory" / "job", memory__limit_in_bytes=500, memory__usage_in_bytes=400, memory__stat=stat)
    assert cgroup_free_bytes(root, own) == 130


def test_what_is_free_is_the_least_of_machine_and_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_available_bytes", lambda: 1000)
    for limit, free in ((100, 90), (5000, 900)):
        monkeypatch.setattr(machine, "cgroup_free_bytes", lambda limit=limit: limit)
        assert free_bytes(torch.device("cpu")) == free

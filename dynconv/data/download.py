"""Downloads of the sets that torchvision can fetch."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from dynconv.data.errors import DataError


@dataclass(frozen=True)
class Download:
    """A digit set as torchvision downloads it, with its mirrors and digests.

    Attributes:
        name: The domain.
        dataset: The class in `torchvision.datasets`.
        parts: Arguments that choose each of its splits.
    """

    name: str
    dataset: str
    parts: tuple[dict[str, Any], ...]

    def command(self, data_root: Path) -> str:
        """What to type for it."""
        return f"dynconv data check {self.name} --data-root {shlex.quote(str(data_root))} --download"

    def run(self, files: Sequence[str], data_root: Path) -> None:
        """Fetch those of `files` that are missing below `data_root`, which is made where it is not there.

        What is there is left alone. A file takes its place when it is whole and its digest right: an interrupted
        download leaves nothing behind.

        Raises:
            DataError: the folder cannot be written, no server answers, the file it gives has another digest, or
                torchvision is not installed.
        """
        try:
            from torchvision import datasets

            data_root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".download-", dir=data_root) as folder:
                for part in self.parts:
                    getattr(datasets, self.dataset)(folder, **part, download=True)
                for file in files:
                    if not (data_root / file).is_file():
                        (data_root / file).parent.mkdir(parents=True, exist_ok=True)
                        (Path(folder) / file).replace(data_root / file)
        except ImportError as error:
            raise DataError(f'{self.name} needs {error.name}: pip install "dynconv[train]"') from error
        except (OSError, RuntimeError, EOFError, HTTPException) as error:
            raise DataError(
                f"{self.name}: torchvision could not download it to {data_root}: {error}. Its addresses are those of "
                f"torchvision.datasets.{self.dataset}; files fetched by hand belong there as well: {', '.join(files)}"
            ) from error

"""Updates kept on the server's disk while they wait for the others of their round.

A file an update: the bytes of its tensors, one after the other in the order of the previous model. Nothing in it is
code or describes itself, so reading it back can run nothing; and any stretch of any tensor can be read alone, which is
what keeps the memory of a median over two hundred sites small.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_PREFIX = "nc_medfl-updates-"


class Spool:
    """A folder of updates of one round.

    Args:
        layout: a model with the names, shapes and types of every update to come.
        parent: where to make the folder, for this process alone: what a killed one left there is removed. None takes
            the system's folder for temporary files.
    """

    def __init__(self, layout: Mapping[str, Tensor], parent: Path | None = None) -> None:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
            for left in parent.glob(f"{_PREFIX}*"):
                shutil.rmtree(left, ignore_errors=True)
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._layout = {name: (value.dtype, value.shape) for name, value in layout.items()}
        self._offsets: dict[str, int] = {}
        position = 0
        for name, (dtype, shape) in self._layout.items():
            self._offsets[name] = position
            position += dtype.itemsize * shape.numel()
        self._count = 0

    def put(self, params: Mapping[str, Tensor]) -> Path:
        """Write an update.

        Returns:
            Its file.

        Raises:
            OSError: if the disk is full; nothing of the update is left then.
        """
        path = self.folder / f"{self._count:06d}.bin"
        self._count += 1
        try:
            with path.open("wb") as stream:
                for name, (_, shape) in self._layout.items():
                    if shape.numel():
                        stream.write(_bytes(params[name]))
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return path

    def read(self, path: Path, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Elements ``start`` to ``stop`` of a tensor, flat; of the whole, in its shape."""
        dtype, shape = self._layout[name]
        stop_at = shape.numel() if stop is None else stop
        if stop_at == start:
            return torch.empty(shape if start == 0 and stop is None else (0,), dtype=dtype)
        raw = np.fromfile(
            path,
            dtype=np.uint8,
            count=(stop_at - start) * dtype.itemsize,
            offset=self._offsets[name] + start * dtype.itemsize,
        )
        flat = torch.from_numpy(raw).view(dtype)
        return flat.reshape(shape) if stop is None and start == 0 else flat

    def read_all(self, path: Path) -> dict[str, Tensor]:
        """A whole update."""
        return {name: self.read(path, name) for name in self._layout}

    def close(self) -> None:
        """Remove the folder and what is in it."""
        self._remove()


def _bytes(value: Tensor) -> memoryview:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data

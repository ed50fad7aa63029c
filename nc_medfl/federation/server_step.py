"""What the server does with the average of a round: a step towards it, and a mean of late models to hand out.

Momentum is FedAvgM (Hsu, Qi and Brown, 2019, arXiv 1909.06335), ``adam`` is FedAdam (Reddi et al., ICLR 2021, arXiv
2003.00295): both take the difference between the average and the model that the round started from for a gradient. The
curves of skewed federations swing from round to round, so the model that is handed out can be the plain mean of the
last few global models (as in stochastic weight averaging, Izmailov et al., UAI 2018); training goes on from the last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from nc_medfl.config import AggregationSettings
from nc_medfl.errors import RunFailed
from nc_medfl.federation import keys

Tensors = dict[str, Tensor]

_MOMENT, _SQUARE = "moment", "square"
#: In the state's metadata: numbers of the steps whose models are kept, as JSON.
_STEPS = "steps"
#: FedAdam's decay of the mean of squares, as published.
_SQUARE_DECAY = 0.99


class ServerStep:
    """The server's memory from round to round.

    Args:
        settings: of the aggregation.
        trained: names of the parameters; buffers are averaged and nothing else.
    """

    def __init__(self, settings: AggregationSettings, trained: Collection[str]) -> None:
        self._settings = settings
        self._trained = frozenset(trained)
        self._moments: dict[str, Tensors] = {_MOMENT: {}, _SQUARE: {}}
        self._models: dict[int, Tensors] = {}
        self._steps = 0

    @property
    def has_memory(self) -> bool:
        """Whether it is more than taking the average as it is."""
        return self._settings.server_optimizer != "none" or self._settings.average_last > 1

    def step(self, previous: Mapping[str, Tensor], averaged: Mapping[str, Tensor]) -> Tensors:
        """The next global model.

        Args:
            previous: what the round started from.
            averaged: of the round's updates.
        """
        model = {name: torch.as_tensor(value) for name, value in averaged.items()}
        if self._settings.server_optimizer != "none":
            # In place: memory that comes and goes with every parameter costs more than the sums.
            for name in model.keys() & self._trained:
                old = torch.as_tensor(previous[name]).to(torch.float64, copy=True)
                change = model[name].to(torch.float64, copy=True).sub_(old)
                model[name] = old.add_(self._move(name, change)).to(model[name].dtype)
        self._steps += 1
        if self._settings.average_last > 1:
            self._models[self._steps] = model
            self._models.pop(self._steps - self._settings.average_last, None)
        return model

    def handed_out(self, model: Mapping[str, Tensor]) -> Tensors:
        """The mean of the last models, ``model`` being the last one; that itself where no mean is asked for."""
        if len(self._models) < 2:
            return dict(model)
        models = [self._models[number] for number in sorted(self._models)]
        out = {}
        for name, value in models[-1].items():
            mean = torch.stack([one[name].double() for one in models]).mean(dim=0)
            out[name] = (mean if value.is_floating_point() else mean.round()).to(value.dtype)
        return out

    def write(self, folder: Path) -> None:
        """Put what it remembers on disk: the state, and a file for each model that is not there yet.

        The state names the models that belong to it, and comes after them: whatever else lies there is of no account.
        """
        for number, model in self._models.items():
            path = folder / keys.SERVER_MODEL.format(number)
            if not path.exists() or number == self._steps:
                _save_whole(path, model)
        moments = {f"{kind}:{name}": value for kind, values in self._moments.items() for name, value in values.items()}
        _save_whole(folder / keys.SERVER_STATE, moments, {_STEPS: json.dumps(sorted(self._models))})
        wanted = {path.name for path in self.files(folder)}
        for path in folder.glob(keys.SERVER_MODEL.format("*")):
            if path.name not in wanted:
                path.unlink()

    @staticmethod
    def files(folder: Path) -> list[Path]:
        """What :meth:`write` left in a folder, the state first; nothing where it left none."""
        state = folder / keys.SERVER_STATE
        if not state.is_file():
            return []
        return [state, *(folder / keys.SERVER_MODEL.format(number) for number in _steps_of(state))]

    def read(self, folder: Path) -> None:
        """Take up what :meth:`write` left.

        Raises:
            RunFailed: if it can't be read.
        """
        state = folder / keys.SERVER_STATE
        try:
            models = {n: load_file(folder / keys.SERVER_MODEL.format(n)) for n in _steps_of(state)}
            moments = load_file(state)
        except (OSError, SafetensorError, ValueError) as error:
            raise RunFailed("the saved state of the server's optimiser can't be read. Start the job afresh.") from error
        self._models, self._steps = models, max(models, default=0)
        for key, value in moments.items():
            kind, _, name = key.partition(":")
            self._moments[kind][name] = value

    def _move(self, name: str, change: Tensor) -> Tensor:
        """What to add to a parameter; may be the memory itself, so not to be changed."""
        rules = self._settings
        moment = self._moments[_MOMENT].setdefault(name, torch.zeros_like(change)).mul_(rules.server_momentum)
        if rules.server_optimizer == "momentum":
            moment.add_(change)
            return moment if rules.server_lr == 1 else rules.server_lr * moment
        square = self._moments[_SQUARE].setdefault(name, torch.zeros_like(change)).mul_(_SQUARE_DECAY)
        square.add_((1 - _SQUARE_DECAY) * change.square())
        moment.add_((1 - rules.server_momentum) * change)
        return rules.server_lr * moment / (square.sqrt() + rules.server_adaptivity)


def _save_whole(path: Path, tensors: Tensors, about: dict[str, str] | None = None) -> None:
    """As ``write_atomic``, without the copies of some hundred MB that bytes would be.

    Raises:
        OSError: if the disk is full.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, about)
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)


def _steps_of(state: Path) -> list[int]:
    with safe_open(state, framework="pt") as opened:
        return [int(number) for number in json.loads((opened.metadata() or {}).get(_STEPS, "[]"))]

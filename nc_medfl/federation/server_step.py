"""What the server does with the average of a round: a step towards it, and a mean of late models to hand out.

Momentum is FedAvgM (Hsu, Qi and Brown, 2019, arXiv 1909.06335), ``adam`` is FedAdam (Reddi et al., ICLR 2021, arXiv
2003.00295): both take the difference between the average and the model that the round started from for a gradient. The
curves of skewed federations swing from round to round, so the model that is handed out can be the plain mean of the
last few global models (as in stochastic weight averaging, Izmailov et al., UAI 2018); training goes on from the last.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from nc_medfl.config import AggregationSettings
from nc_medfl.data.store import write_atomic
from nc_medfl.errors import RunFailed

Tensors = dict[str, Tensor]

_MOMENT, _SQUARE, _MODEL = "moment", "square", "model"
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
        self._models: list[Tensors] = []

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
            for name in model.keys() & self._trained:
                old = torch.as_tensor(previous[name]).double()
                model[name] = (old + self._move(name, model[name].double() - old)).to(model[name].dtype)
        if self._settings.average_last > 1:
            self._models = [*self._models, model][-self._settings.average_last :]
        return model

    def handed_out(self, model: Mapping[str, Tensor]) -> Tensors:
        """The mean of the last models, ``model`` being the last one; that itself where no mean is asked for."""
        if len(self._models) < 2:
            return dict(model)
        out = {}
        for name, value in self._models[-1].items():
            mean = torch.stack([one[name].double() for one in self._models]).mean(dim=0)
            out[name] = (mean if value.is_floating_point() else mean.round()).to(value.dtype)
        return out

    def state(self) -> Tensors:
        """Everything it remembers, by name, for :meth:`restore`."""
        parts = {f"{kind}:{name}": value for kind, values in self._moments.items() for name, value in values.items()}
        for index, model in enumerate(self._models):
            parts |= {f"{_MODEL}{index}:{name}": value for name, value in model.items()}
        return parts

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`state` gave."""
        models: dict[int, Tensors] = {}
        for key, value in state.items():
            kind, _, name = key.partition(":")
            if kind.startswith(_MODEL):
                models.setdefault(int(kind.removeprefix(_MODEL)), {})[name] = value
            else:
                self._moments[kind][name] = value
        self._models = [models[index] for index in sorted(models)]

    def write(self, path: Path) -> None:
        """Put :meth:`state` on disk, whole or not at all."""
        buffer = io.BytesIO()
        torch.save(self.state(), buffer)
        write_atomic(path, buffer.getvalue())

    def read(self, path: Path) -> None:
        """Take up what :meth:`write` left.

        Raises:
            RunFailed: if it can't be read.
        """
        try:
            state: Tensors = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a file that is not one of its own
            raise RunFailed("the saved state of the server's optimiser can't be read. Start the job afresh.") from error
        self.restore(state)

    def _move(self, name: str, change: Tensor) -> Tensor:
        rules = self._settings
        moment = self._moments[_MOMENT].get(name, torch.zeros_like(change))
        if rules.server_optimizer == "momentum":
            moment = rules.server_momentum * moment + change
            self._moments[_MOMENT][name] = moment
            return rules.server_lr * moment
        square = self._moments[_SQUARE].get(name, torch.zeros_like(change))
        moment = rules.server_momentum * moment + (1 - rules.server_momentum) * change
        square = _SQUARE_DECAY * square + (1 - _SQUARE_DECAY) * change.square()
        self._moments[_MOMENT][name], self._moments[_SQUARE][name] = moment, square
        return rules.server_lr * moment / (square.sqrt() + rules.server_adaptivity)

"""A given model, tested at every site: no training, and only numbers come back."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from nc_medfl.config import JobSettings
from nc_medfl.data.store import write_json
from nc_medfl.errors import RunFailed, UserError
from nc_medfl.federation import keys
from nc_medfl.federation.answers import read_test
from nc_medfl.federation.federation_wide import write_federation
from nc_medfl.federation.site_tables import write_site_tables
from nc_medfl.federation.tested import read_tests, untested_rows
from nc_medfl.federation.workflows.base import QuestionController
from nc_medfl.labels import load_vocabulary
from nc_medfl.training.model import build_network, fingerprints, load_model


class EvaluateController(QuestionController):
    """Sends the model of ``model: PATH``, on the server's disk, to every site for its final test."""

    task = keys.TASK_EVALUATE

    def question(self, job: JobSettings) -> FLModel:
        """The model.

        Raises:
            UserError: if there is none, or the job's settings describe another network.
        """
        if job.model is None:
            raise UserError("model: no model named. Set model to a run's model_best.pt, on the server's disk.")
        network, _, content = load_model(Path(job.model))
        expected = fingerprints(build_network(job), load_vocabulary(job.vocabulary))
        for name, value in expected.items():
            if content["fingerprints"].get(name) != value:
                raise UserError(
                    f"model: the {name} of the server's file is not what the job's settings describe. "
                    "Give the job the method, network and vocabulary that the model was trained with."
                )
        return FLModel(params_type=ParamsType.FULL, params=dict(network.state_dict()), meta={})

    def take(self, job: JobSettings, answers: dict[str, FLModel], absent: dict[str, str], folder: Path) -> None:
        """Write the sites' rows; a site without an answer that can be used has rows that say so.

        Raises:
            RunFailed: if no site's answer can be used.
        """
        findings = load_vocabulary(job.vocabulary).findings
        metas = {site: answer.meta for site, answer in answers.items()}
        read = partial(read_test, findings=findings, max_samples=job.aggregation.max_samples)
        rows, metas, refused = read_tests(metas, read, self.warning)
        absent |= refused
        if not metas:
            raise RunFailed(f"no site's metrics can be used: {absent}. See the sites' logs.")
        write_federation(folder, metas, rows, job, self.warning)
        write_site_tables(folder, metas, job, self.warning)
        for site, reason in absent.items():
            rows += untested_rows(job, site, f"no test: {reason}")
        write_json(folder / keys.SITE_METRICS, {"rows": rows})

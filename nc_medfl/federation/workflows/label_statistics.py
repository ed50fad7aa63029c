"""Which findings each site has, and together with which: asked before training, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel

from nc_medfl.config import JobSettings
from nc_medfl.data.store import write_json
from nc_medfl.errors import RunFailed
from nc_medfl.federation import keys
from nc_medfl.federation.answers import parsed
from nc_medfl.federation.label_counts import check_counts
from nc_medfl.federation.refusal import RefusedUpdate
from nc_medfl.federation.workflows.base import QuestionController
from nc_medfl.labels import load_vocabulary

RESULT = "label_statistics.json"
SCHEMA_VERSION = 1


class LabelStatisticsController(QuestionController):
    """Asks every site for its counts, small ones withheld at the site, and keeps them side by side."""

    task = keys.TASK_LABELS

    def question(self, job: JobSettings) -> FLModel:  # noqa: ARG002  # nothing of the job is needed
        """Nothing but the question."""
        return FLModel(metrics={"asked": 1.0}, meta={})

    def take(self, job: JobSettings, answers: dict[str, FLModel], absent: dict[str, str], folder: Path) -> None:
        """Write ``label_statistics.json``.

        Raises:
            RunFailed: if no site's answer can be used.
        """
        findings = load_vocabulary(job.vocabulary).findings
        sites: dict[str, Any] = {}
        for site, answer in answers.items():
            try:
                given = parsed(answer.meta.get(keys.ROWS), "label counts")
                sites[site] = check_counts(given, findings, job.aggregation.max_samples)
            except (ValueError, RefusedUpdate) as reason:
                self.warning(f"label counts of {site} refused: {reason}")
                absent[site] = str(reason)
        if not sites:
            raise RunFailed(f"no site's label counts can be used: {absent}. See the sites' logs.")
        content = {"schema_version": SCHEMA_VERSION, "findings": list(findings), "sites": sites, "absent": absent}
        write_json(folder / RESULT, content)

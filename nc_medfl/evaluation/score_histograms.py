"""``score_histograms.csv``: how a site's test scores spread, as counts in bins that each hold enough images.

What the report draws ROC, precision and recall from; no single score is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nc_medfl.evaluation.patients import Scored
from nc_medfl.metrics.histograms import EDGES, count_runs

SCORE_HISTOGRAMS_CSV = "score_histograms.csv"
#: Fewest patients in a bin.
MINIMUM = 5
COLUMNS = ("run", "model", "site", "finding", "label", "low", "high", "count")


def score_histograms(test: Mapping[str, Scored], findings: Sequence[str], *, run: str, model: str) -> pd.DataFrame:
    """Rows of ``score_histograms.csv``; with fewer positives (or negatives) than ``MINIMUM`` it has none.

    Args:
        test: scores and labels by site.
        findings: names of the columns.
        run: for the rows, as is ``model``.
        model: which model.
    """
    rows: list[tuple[object, ...]] = []
    for site in sorted(test):
        scores, labels = test[site].scores, test[site].labels
        for c, finding in enumerate(findings):
            for name, value in (("positive", 1), ("negative", 0)):
                given = labels[:, c] == value
                chosen = scores[given, c]
                if not np.isfinite(chosen).all():
                    continue
                runs = count_runs(chosen, MINIMUM, test[site].patients[given])
                ends = zip(EDGES[runs.first], EDGES[runs.last + 1], runs.count.tolist(), strict=True)
                rows += [(run, model, site, finding, name, float(a), float(b), n) for a, b, n in ends]
    table: pd.DataFrame = pd.DataFrame(rows, columns=list(COLUMNS))
    return table

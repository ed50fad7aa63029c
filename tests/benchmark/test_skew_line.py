"""What the tables of a study say of its skew."""

from __future__ import annotations

import pandas as pd

from nc_medfl.benchmark.tables import _skew_line


def test_what_is_undefined_is_left_out() -> None:
    runs = {"findings_a_site": [4.0, 5.0], "smallest": [20, 30], "largest": [900, 800]}
    several = pd.DataFrame({"label_skew": [0.1, 0.2], "total_variation": [0.3, 0.5], **runs})
    assert _skew_line(several) == (
        "Skew over sites and seeds: label prevalence differs from all sites' by 0.150 on average, "
        "total variation 0.40, 4.5 findings with a positive a site, 20 to 900 training images a site."
    )
    alone = pd.DataFrame({"label_skew": [None, None], "total_variation": [None, None], **runs})
    assert _skew_line(alone) == (
        "Skew over sites and seeds: 4.5 findings with a positive a site, 20 to 900 training images a site."
    )

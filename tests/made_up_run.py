"""A run folder with made-up numbers, as a run would leave it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nc_medfl.config import EvaluationSettings
from nc_medfl.evaluation import choose_thresholds, evaluate_site, mean_over_sites, write_metrics
from nc_medfl.evaluation.decide import SiteScores, decision_tables, write_decisions
from nc_medfl.evaluation.patients import ScoredSplit
from nc_medfl.labels import Vocabulary, load_vocabulary

SITES = ("st_mary", "riverside", "uni_clinic", "county")


def _table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _predictions(rng: np.random.Generator, n: int, prevalence: np.ndarray, skill: np.ndarray):
    labels = (rng.random((n, len(prevalence))) < prevalence).astype(float)
    logits = rng.normal(labels * skill, 1.0) - 1.2
    return 1 / (1 + np.exp(-logits)), labels, rng.integers(0, n // 2, n)


def _metrics(folder: Path, sites: Sequence[str], vocabulary: Vocabulary, resamples: int, seed: int):
    rng = np.random.default_rng(seed)
    n_findings = len(vocabulary)
    skill = rng.uniform(0.5, 2.2, n_findings)
    parts, tables = [], []
    for k in range(len(sites)):
        prevalence = np.clip(rng.dirichlet(np.full(n_findings, 0.6)) * 1.8, 0.004, 0.6)
        validation, test = (_predictions(rng, n, prevalence, skill - 0.1 * k) for n in (120, 260 + 60 * k))
        if k == 1:
            test[1][:, 2] = 0  # never positive here
        if k == 2:
            test[1][:, 5], validation[1][:, 5] = np.nan, np.nan  # nobody reads for it here
        parts.append((validation, (test[0], test[1], test[2] + 10_000 * k)))
    pooled = tuple(tuple(np.concatenate([p[i][j] for p in parts]) for j in range(3)) for i in range(2))
    for site, (validation, test) in zip((*sites, "pooled"), (*parts, pooled), strict=True):
        tables.append(
            evaluate_site(
                *test,
                thresholds=choose_thresholds(validation[0], validation[1]),
                run="demo_fednca",
                model="fednca",
                site=site,
                split="test",
                vocabulary=vocabulary,
                resamples=resamples,
                seed=0,
            )
        )
    shared = {"run": "demo_fednca", "model": "fednca", "split": "test", "vocabulary": vocabulary}
    for group, half in (("sex=F", 0), ("sex=M", 1)):
        for site, (validation, test) in zip(sites, parts, strict=True):
            own = [part[test[2] % 2 == half] for part in test]
            given = choose_thresholds(validation[0], validation[1])
            found = evaluate_site(
                *own, thresholds=given, site=site, group=group, resamples=min(resamples, 20), **shared
            )
            tables.insert(-1, found)
    named = [t for t in tables[:-1] if (t["group"] == "all").all()]
    rows = pd.concat([*tables[:-1], mean_over_sites(pd.concat(named)), tables[-1]], ignore_index=True)
    write_metrics(rows, folder)
    scores = {
        site: SiteScores(ScoredSplit(*validation), ScoredSplit(*test))
        for site, (validation, test) in zip(sites, parts, strict=True)
    }
    settings = EvaluationSettings(resamples=resamples)
    further = decision_tables(scores, rows, vocabulary, settings, run="demo_fednca", model="fednca")
    write_decisions(further, folder)
    return parts


def _labels(sites, vocabulary, parts):
    rows = []
    for site, (validation, test) in zip(sites, parts, strict=True):
        known = np.concatenate([validation[1], test[1]])
        for split, labels in (("train", np.concatenate([known] * 4)), ("val", validation[1]), ("test", test[1])):
            nothing = (np.nan_to_num(labels) == 0).all(axis=1).astype(float)
            for finding, column in zip((*vocabulary.findings, "No Finding"), (*labels.T, nothing), strict=True):
                rows.append(
                    {
                        "site": site,
                        "split": split,
                        "n_images": len(column),
                        "n_patients": len(column) // 2,
                        "finding": finding,
                        "n_positive": int((column == 1).sum()),
                        "n_negative": int((column == 0).sum()),
                        "n_unknown": int(np.isnan(column).sum()),
                    }
                )
    return rows


def _rounds(rng, sites, rounds):
    rows = []
    for r in range(rounds + 1):
        values = []
        for k, site in enumerate(sites):
            value = 0.5 + (0.36 - 0.03 * k) * (1 - np.exp(-r / 4)) + rng.normal(0, 0.008)
            values.append(value)
            base = {"round": r, "site": site, "n_positive": 90, "n_annotated": 1600, "reason": ""}
            rows.append({**base, "split": "val", "finding": "macro", "metric": "auc", "value": f"{value:.6g}"})
            for metric, start in (("loss", 9.0), ("bce", 5.0), ("rejection", 4.0), ("contrast", 3.6)) if r else ():
                loss = start * (0.35 + 0.65 * np.exp(-r / 5)) * (1 + 0.05 * k)
                rows.append({**base, "split": "train", "finding": "all", "metric": metric, "value": f"{loss:.6g}"})
        base = {"round": r, "site": "all", "n_positive": "", "n_annotated": "", "reason": ""}
        rows.append({**base, "split": "val", "finding": "macro", "metric": "auc", "value": f"{np.mean(values):.6g}"})
    columns = ("round", "site", "split", "finding", "metric", "value", "n_positive", "n_annotated", "reason")
    return [{name: row[name] for name in columns} for row in rows]


def _collapse(rng, vocabulary, rounds):
    rows = []
    level = rng.uniform(2, 30, len(vocabulary))
    for r in range(rounds + 1):
        fall = 0.25 + 0.75 * np.exp(-r / 5)
        for metric, value in (
            ("nc1", 12 * fall),
            ("nc2_angle", 0.5 * fall),
            ("nc2_length", 0.4 * fall),
            ("nc3", 1 - fall),
        ):
            rows.append({"round": r, "finding": "all", "metric": metric, "value": f"{value:.6g}", "reason": ""})
        for k, finding in enumerate(vocabulary.findings):
            few = k == 3
            gap = "" if few else f"{level[k] * fall:.6g}"
            why = "too few positives or negatives" if few else ""
            rows.append({"round": r, "finding": finding, "metric": "ncpn", "value": gap, "reason": why})
            rows.append({"round": r, "finding": finding, "metric": "n_sites", "value": 1 if few else 4, "reason": ""})
            rows.append({"round": r, "finding": finding, "metric": "n_positive", "value": 20 + 17 * k, "reason": ""})
    return rows


def make_run(
    folder: Path,
    *,
    sites: Sequence[str] = SITES,
    vocabulary: Vocabulary | None = None,
    rounds: int = 16,
    resamples: int = 100,
    name: str = "demo_fednca",
    seed: int = 3,
) -> Path:
    """Fill a folder as a finished run would, with made-up numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = vocabulary or load_vocabulary("nih14")
    rng = np.random.default_rng(seed)
    parts = _metrics(folder, sites, vocabulary, resamples, seed)
    _table(folder / "rounds.csv", _rounds(rng, sites, rounds))
    _table(folder / "collapse.csv", _collapse(rng, vocabulary, rounds))
    updates = [
        {"round": r, "site": s, "outcome": "accepted", "reason": "", "n_samples": 700}
        for r in range(1, rounds + 1)
        for s in sites
    ]
    updates[-3] |= {"outcome": "refused", "reason": "holds a NaN in backbone.conv1.weight", "n_samples": ""}
    updates[-1] |= {"outcome": "missing", "reason": "no answer in time", "n_samples": ""}
    _table(folder / "updates.csv", updates)
    _table(folder / "label_statistics.csv", _labels(sites, vocabulary, parts))
    run = {
        "schema_version": 1,
        "name": name,
        "method": "fednca",
        "env": "sim",
        "settings": {
            "rounds": rounds,
            "network": {"backbone": "small", "init_weights": "/srv/secret/weights.pt"},
            "training": {"lr": 0.002, "betas": [0.9, 0.98]},
            "aggregation": {"weighting": "class_aware"},
        },
        "seed": 0,
        "versions": {"python": "3.11.2", "nc_medfl": "0.1.0", "torch": "2.9.0", "nvflare": "2.9.0", "monai": "1.5.1"},
        "fingerprints": dict.fromkeys(("vocabulary", "frame", "model", "preparation"), 2 * "0123456789abcdef" * 2),
        "vocabulary": list(vocabulary.findings),
        "sites": list(sites),
        "started": "2025-03-04T09:15:00+00:00",
        "ended": "2025-03-04T09:19:42+00:00",
        "outcome": "finished",
        "best_round": rounds - 2,
        "rounds": rounds,
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return folder

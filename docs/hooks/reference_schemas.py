"""Keys and columns of every file, from the definitions that read and write them.

Names, order, types, limits and defaults come from the code. What a key means comes from its class' docstring or the
comment in ``jobs/fednca_cxr/job.yaml``; what a column means stands in ``file_glossary``. A name without a meaning
fails the build.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import file_glossary
import yaml

_JOB = Path(__file__).resolve().parents[2] / "jobs" / "fednca_cxr" / "job.yaml"
_START = """# Every file, key by key

Made from the code that reads and writes the files. Files of settings refuse a key that isn't listed.
An empty cell of a CSV is an undefined or unknown value.
"""


def page() -> str:
    """The Markdown."""
    sections = [*_settings(), *_tables(), *_records()]
    return "\n".join([_START, *(f"## {title}\n\n{text}\n" for title, text in sections)])


def _settings() -> Iterator[tuple[str, str]]:
    from nc_medfl.benchmark.matrix import Matrix
    from nc_medfl.config import JobSettings, SiteConfig
    from nc_medfl.inference.description import ModelDescription
    from nc_medfl.labels import LabelMap

    comments = job_comments()
    yield (
        "job.yaml",
        f"Settings of a job. [Choose one](../how-to/jobs.md). {_presets()}\n\n" + _keys(JobSettings, comments),
    )
    yield "site.yaml", "A hospital's own settings. [More](site.md).\n\n" + _keys(SiteConfig, {})
    yield "Label map", "How a table of labels is read. [More](labels.md).\n\n" + _keys(LabelMap, {})
    yield "Matrix of a bench", "Of `nc-medfl bench`. [How to](../how-to/bench.md).\n\n" + _keys(Matrix, comments)
    yield "model.json", "Of a portable model. [More](model-file.md).\n\n" + _keys(ModelDescription, comments)


def _presets() -> str:
    """What differs from the defaults for FedNCA-ML, in words."""
    from nc_medfl.config import JobSettings

    plain = JobSettings(method="fedavg").model_dump()
    tuned = JobSettings(method="fednca").model_dump()
    found = [
        f"`{section}.{key}: {value}`"
        for section in ("network", "loss", "training", "aggregation")
        for key, value in tuned[section].items()
        if value != plain[section][key]
    ]
    return f"With `method: fednca` what isn't set is {', '.join(found)} instead; not with `paper_compat: true`."


def _tables() -> Iterator[tuple[str, str]]:
    from nc_medfl.data import manifest

    labels = {"label:<finding>": "float32", "raw:<column>": "string"}
    rows = [
        (name, kind, file_glossary.MANIFEST[name])
        for name, kind in {**manifest.COLUMNS, **manifest.OPTIONAL_COLUMNS, **labels}.items()
    ]
    yield "manifest.parquet", "A row an image. [Stores](stores.md).\n\n" + _table(("column", "type", "meaning"), rows)
    for title, (about, columns) in tables().items():
        own = file_glossary.OF_TABLE.get(title, {})
        meanings = [(name, own.get(name) or _column(name)) for name in columns]
        yield title, f"{about}\n\n" + _table(("column", "meaning"), meanings)


def tables() -> dict[str, tuple[str, Sequence[str]]]:
    """Name of each CSV file, what it is, and its columns as the code writes them."""
    from nc_medfl.benchmark import results, single
    from nc_medfl.evaluation import calibrated, compare, groups, score_histograms, tables, threshold_costs
    from nc_medfl.federation import federation_wide, roundlog
    from nc_medfl.inference import predict

    run = "Of a [run](run-folder.md)."
    evaluation = "Of an [evaluation](evaluation.md)."
    return {
        "metrics.csv": (f"Final metrics. {run}", tables.COLUMNS),
        "rounds.csv": (f"Metrics and losses a round. {run}", roundlog.ROUND_COLUMNS),
        "collapse.csv": (f"Collapse a round. {run}", roundlog.COLLAPSE_COLUMNS),
        "updates.csv": (f"What became of each update. {run}", roundlog.UPDATE_COLUMNS),
        "privacy.csv": (f"Protection and epsilon a round and site. {run}", roundlog.PRIVACY_COLUMNS),
        "thresholds.csv": (evaluation, threshold_costs.THRESHOLD_COLUMNS),
        "calibration.csv": (evaluation, calibrated.CALIBRATION_COLUMNS),
        "reliability.csv": (evaluation, calibrated.RELIABILITY_COLUMNS),
        "fairness.csv": (evaluation, groups.FAIRNESS_COLUMNS),
        "score_histograms.csv": (evaluation, score_histograms.COLUMNS),
        "federation.csv": (evaluation, federation_wide.FEDERATION_COLUMNS),
        "comparisons.csv": ("Of `nc-medfl evaluate --against`. [More](predictions.md).", compare.COLUMNS),
        file_glossary.PREDICTIONS: (
            "Of `nc-medfl predict --out`. [How to](../how-to/predict.md).",
            predict.COLUMNS,
        ),
        "results.csv": (
            "Every number of a [bench](../how-to/bench.md); `chosen.csv` has the chosen rounds alone.",
            single.COLUMNS,
        ),
        "runs.csv": ("A row a run of a bench.", (*results._RUN_COLUMNS, *results._SKEW_COLUMNS)),
    }


def _records() -> Iterator[tuple[str, str]]:
    for title, about, meanings in (
        ("run.json", "Of a [run](run-folder.md).", file_glossary.RUN),
        ("prepare.json", "Of a [store](stores.md).", file_glossary.PREPARE),
    ):
        yield (
            title,
            f"{about} A test holds this table against real files.\n\n" + _table(("key", "meaning"), meanings.items()),
        )


def _column(name: str) -> str:
    if name in file_glossary.COLUMNS:
        return file_glossary.COLUMNS[name]
    for start, words in (("val_", "on validation"), ("test_", "on test")):
        if name.startswith(start):
            return f"{_column(name.removeprefix(start))}, {words}"
    for end, words in (("_low", "lower end of its interval"), ("_high", "upper end of its interval")):
        if name.endswith(end):
            return f"{_column(name.removesuffix(end))}: {words}"
    raise KeyError(f"docs/hooks/file_glossary.py: no meaning of the column '{name}'")


def _keys(model: Any, comments: Mapping[str, str]) -> str:
    schema = model.model_json_schema()
    rows = list(_walk(schema, schema.get("$defs", {}), "", comments))
    return _table(("key", "value", "default", "meaning"), rows)


def _walk(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str, comments: Mapping[str, str]
) -> Iterator[tuple[str, str, str, str]]:
    meanings = attributes_of(str(schema.get("description", "")))
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        key = f"{prefix}{name}"
        below = [definitions[ref] for ref in _references(field)]
        meaning = (
            field.get("description")
            or re.sub(r"\bNone\b", "null", meanings.get(name, ""))
            or comments.get(key)
            or file_glossary.KEYS.get(name, "")
        )
        if not meaning and not below:
            raise KeyError(f"docs/hooks/file_glossary.py: no meaning of the key '{key}' of {schema.get('title')}")
        default = "required" if name in required else _default(field.get("default"))
        nested = any(definition.get("properties") for definition in below)
        yield f"`{key}`", "" if nested and len(below) == 1 else _value(field), "" if nested else default, meaning
        for definition in below:
            own = _kind(definition)
            more = {**comments, **{k.removeprefix(f"{prefix}{name}."): v for k, v in comments.items()}}
            start = f"{key}{_repeated(field)}."
            for row in _walk(definition, definitions, start, {**more, **_below(comments, name, start)}):
                # What every kind has is told once.
                again = definition is not below[0] and row[0].startswith(f"`{start}expected")
                if not again and (own is None or row[0] != f"`{start}kind`"):
                    yield (row[0], *row[1:3], f"({own}) {row[3]}" if own and len(below) > 1 else row[3])


def _below(comments: Mapping[str, str], name: str, start: str) -> dict[str, str]:
    """Comments of a job's section, for a section of the same name in another file."""
    return {f"{start}{key.split('.', 1)[1]}": text for key, text in comments.items() if key.startswith(f"{name}.")}


def _kind(definition: Mapping[str, Any]) -> str | None:
    kind = definition.get("properties", {}).get("kind", {})
    return f"`kind: {kind['const']}`" if "const" in kind else None


def _repeated(field: Mapping[str, Any]) -> str:
    if "patternProperties" in field or isinstance(field.get("additionalProperties"), dict):
        return ".NAME"
    return "[]" if "items" in field else ""


def _references(field: Any) -> list[str]:
    """Names of the definitions that a field refers to."""
    if isinstance(field, Mapping):
        own = [field["$ref"].rsplit("/", 1)[1]] if "$ref" in field else []
        skipped = ("default", "discriminator")
        return own + [ref for key, value in field.items() if key not in skipped for ref in _references(value)]
    return [ref for part in field for ref in _references(part)] if isinstance(field, list) else []


def _default(value: Any) -> str:
    if value is None:
        return "`null`"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
    return f"`{text}`"


_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}


def _value(field: Mapping[str, Any]) -> str:
    """What a key takes, in words."""
    for choice in ("anyOf", "oneOf"):
        if choice in field:
            return " or ".join(dict.fromkeys(_value(part) for part in field[choice]))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "$ref" in field:
        return "keys below"
    kind = field.get("type")
    if kind == "array":
        if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])}: {_value(field['prefixItems'][0])}"
        return f"list of {_value(field.get('items', {}))}"
    if kind == "object":
        named = field.get("additionalProperties") or next(iter(field.get("patternProperties", {}).values()), None)
        return f"by name: {_value(named)}" if isinstance(named, dict) and named else "keys and values"
    if field.get("format") == "path":
        return "path"
    return _TYPES.get(str(kind), "value") + _limits(field)


def _limits(field: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = [f"{sign} {field[key]}" for key, sign in signs.items() if key in field]
    return f", {', '.join(told)}" if told else ""


def attributes_of(docstring: str) -> dict[str, str]:
    """The ``Attributes:`` of a docstring, by name."""
    _, _, section = docstring.partition("Attributes:\n")
    out: dict[str, str] = {}
    for entry in re.split(r"\n(?=\s{0,4}\w+: )", "\n" + section):
        name, colon, text = entry.strip().partition(":")
        if colon:
            out[name] = " ".join(text.split())
    return out


def job_comments() -> dict[str, str]:
    """The comment beside each key of the job file, by dotted key."""
    out: dict[str, str] = {}
    section = ""
    for line in _JOB.read_text(encoding="utf-8").splitlines():
        match = re.match(r"( *)(\w+):([^#]*)(?:#\s*(.*))?$", line)
        if match:
            indent, key, value, comment = match.groups()
            section = key if not indent and not value.strip() else section if indent else ""
            out[f"{section}.{key}" if indent else key] = comment or ""
    return out


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [" | ".join(header), " | ".join("---" for _ in header)]
    lines += [" | ".join(_cell(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    # A docstring's ``code`` and :role:`name` become Markdown; what stands in code stays as it is.
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text).replace("``", "`")
    return in_a_table(" ".join(text.split()))


def in_a_table(text: str) -> str:
    """Markdown for a cell: a bar ends a cell, but for one in code."""
    parts = text.split("`")
    return "`".join(part.replace("|", "\\|") if number % 2 == 0 else part for number, part in enumerate(parts))

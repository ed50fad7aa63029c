"""What the findings are called: ordered vocabularies, and maps from a site's own table to them.

A label is 1 (present), 0 (absent) or NaN (unknown: nobody read for it, or the report was uncertain).
"""

from nc_medfl.labels.harmonise import HarmonisedLabels, check_table, harmonise, resolve
from nc_medfl.labels.infer import Named, infer_label_map
from nc_medfl.labels.label_map import LabelMap
from nc_medfl.labels.map_file import (
    available_label_maps,
    label_map_path,
    load_label_map,
    parse_label_map,
    published_map,
)
from nc_medfl.labels.preview import Preview, conflicts_told, preview, silence_told
from nc_medfl.labels.states import Strange, read_states
from nc_medfl.labels.vocabulary import NO_FINDING, Vocabulary, available_vocabularies, load_vocabulary

__all__ = [
    "NO_FINDING",
    "HarmonisedLabels",
    "LabelMap",
    "Named",
    "Preview",
    "Strange",
    "Vocabulary",
    "available_label_maps",
    "available_vocabularies",
    "check_table",
    "conflicts_told",
    "harmonise",
    "infer_label_map",
    "label_map_path",
    "load_label_map",
    "load_vocabulary",
    "parse_label_map",
    "preview",
    "published_map",
    "read_states",
    "resolve",
    "silence_told",
]

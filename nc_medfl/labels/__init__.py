"""What the findings are called: ordered vocabularies, and maps from a site's own table to them.

A label is 1 (present), 0 (absent) or NaN (unknown: nobody read for it, or the report was uncertain).
"""

from nc_medfl.labels.harmonise import HarmonisedLabels, harmonise
from nc_medfl.labels.infer import infer_label_map
from nc_medfl.labels.label_map import LabelMap, available_label_maps, load_label_map
from nc_medfl.labels.vocabulary import NO_FINDING, Vocabulary, available_vocabularies, load_vocabulary

__all__ = [
    "NO_FINDING",
    "HarmonisedLabels",
    "LabelMap",
    "Vocabulary",
    "available_label_maps",
    "available_vocabularies",
    "harmonise",
    "infer_label_map",
    "load_label_map",
    "load_vocabulary",
]

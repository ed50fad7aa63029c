"""Dealing one pool out to several hospitals that see different diseases, and describing what each holds.

``dirichlet`` and ``missing_classes`` draw the skew, ``dealing`` hands out patients, ``natural`` deals by a column,
``write`` makes the site
folders; ``describe`` counts what any set of stores holds and ``picture`` draws it.
"""

from nc_medfl.partition.describe import SiteDescription, describe_sites, label_skew, total_variation
from nc_medfl.partition.natural import NaturalSettings, plan_natural
from nc_medfl.partition.plan import PartitionPlan, PartitionSettings, plan_partition, site_names
from nc_medfl.partition.write import partition_store

__all__ = [
    "NaturalSettings",
    "PartitionPlan",
    "PartitionSettings",
    "SiteDescription",
    "describe_sites",
    "label_skew",
    "partition_store",
    "plan_natural",
    "plan_partition",
    "site_names",
    "total_variation",
]

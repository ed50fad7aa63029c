"""Typed settings of a site and of a job, read from YAML.

A wrong key or value ends in a line that names the file, the line, the key and the remedy. A job's settings (``job``)
carry no path and no data; those are the site's, in its own ``site.yaml`` (``site``). ``files`` reads and writes both.
"""

from nc_medfl.config.files import (
    load_job_settings,
    load_site_config,
    read_job_file,
    save_site_config,
)
from nc_medfl.config.job import (
    AggregationSettings,
    EvaluationSettings,
    FederationSettings,
    FedNHSettings,
    FedProxSettings,
    JobSettings,
    LossSettings,
    MoonSettings,
    NetworkSettings,
    ReleaseSettings,
    TrainingSettings,
    with_later_keys,
)
from nc_medfl.config.site import (
    PrivacySettings,
    PrivateTraining,
    SiteConfig,
    StatisticsNoise,
)
from nc_medfl.config.vocabulary import OwnVocabulary

__all__ = [
    "AggregationSettings",
    "EvaluationSettings",
    "FedNHSettings",
    "FedProxSettings",
    "FederationSettings",
    "JobSettings",
    "LossSettings",
    "MoonSettings",
    "NetworkSettings",
    "OwnVocabulary",
    "PrivacySettings",
    "PrivateTraining",
    "ReleaseSettings",
    "SiteConfig",
    "StatisticsNoise",
    "TrainingSettings",
    "load_job_settings",
    "load_site_config",
    "read_job_file",
    "save_site_config",
    "with_later_keys",
]

"""A site's own policy: whether it takes part in a job at all, decided before the first task."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NoReturn

from nc_medfl.config import JobSettings, SiteConfig
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError

# The closed list of what a server learns of a refusal: no number, no path, no text of the site's settings.
UNKNOWN_SETTINGS = "refused by the site (the job asks for something unknown)"
JOB = "refused by the site (it does not take part in this job)"
METHOD = "refused by the site (it does not train this method)"
COHORT = "refused by the site (too small a cohort)"
STATISTICS = "refused by the site (the job asks for class statistics that it withholds)"
TRAINING = "refused by the site (the job does not allow the protection that it demands)"
BUDGET = "refused by the site (its privacy budget is spent)"
CATEGORIES = (UNKNOWN_SETTINGS, JOB, METHOD, COHORT, STATISTICS, TRAINING, BUDGET)


class Refusal(UserError):
    """A job or task that the site's policy forbids. The message is for the site; ``category`` may leave it."""

    kind = UserError.__name__

    def __init__(self, category: str, message: str) -> None:
        super().__init__(message)
        self.category = category


def check_job(settings: JobSettings, config: SiteConfig, store: Store) -> None:
    """Check a job against the site's ``privacy`` settings.

    Raises:
        Refusal: if the site may not take part; the text names the site's key that forbids it.
        UserError: if the site's own settings don't go with its data.
    """
    _check_who(settings, config)
    _check_cohort(config, store)
    _check_statistics(settings, config)
    if settings.kind == "train":
        _check_training(settings, config)


def _check_who(settings: JobSettings, config: SiteConfig) -> None:
    privacy = config.privacy
    if privacy.allowed_jobs is not None and not any(fnmatchcase(settings.name, p) for p in privacy.allowed_jobs):
        _refuse(config, JOB, f"the job '{settings.name}' is not among privacy.allowed_jobs")
    if privacy.allowed_methods is not None and settings.method not in privacy.allowed_methods:
        _refuse(config, METHOD, f"the method '{settings.method}' is not among privacy.allowed_methods")


def _check_cohort(config: SiteConfig, store: Store) -> None:
    privacy = config.privacy
    rows = store.positions("train")
    n_patients = int(store.manifest["patient_key"].iloc[rows].nunique())
    if n_patients < privacy.min_patients:
        _refuse(config, COHORT, f"{n_patients} training patients, and privacy.min_patients asks for more")
    if len(rows) < privacy.min_images:
        _refuse(config, COHORT, f"{len(rows)} training images, and privacy.min_images asks for more")
    noise = privacy.protects_model or privacy.protects_statistics
    if noise and privacy.delta * n_patients >= 1:
        raise UserError(
            f"site {config.name}: privacy.delta {privacy.delta:g} is no protection for {n_patients} training patients. "
            f"Set it below {1 / n_patients:.2g}."
        )


def _check_statistics(settings: JobSettings, config: SiteConfig) -> None:
    privacy, asked = config.privacy, settings.release
    if settings.kind == "label_statistics":
        # Exact counts beside noised ones would take the noise off again.
        if not privacy.allow_class_statistics or privacy.protects_model or privacy.protects_statistics:
            _refuse(config, STATISTICS, "it asks for exact label counts, which privacy forbids or noises")
        return
    if asked.class_statistics == "none":
        return
    if asked.class_statistics == "required" and not privacy.allow_class_statistics:
        _refuse(config, STATISTICS, "release.class_statistics is 'required', privacy.allow_class_statistics false")
    if asked.min_positives is not None and (
        not privacy.allow_class_statistics or asked.min_positives < privacy.min_positives
    ):
        own = privacy.min_positives if privacy.allow_class_statistics else "no class statistics at all"
        _refuse(config, STATISTICS, f"release.min_positives is {asked.min_positives}, privacy.min_positives {own}")


def _check_training(settings: JobSettings, config: SiteConfig) -> None:
    from nc_medfl.training.methods import get_method
    from nc_medfl.training.private import obstacles

    if config.privacy.update_clip is not None and get_method(settings.method).has_memory:
        why = f"privacy.update_clip bounds the model, and {settings.method} sends more beside it"
        _refuse(config, TRAINING, why)
    if get_method(settings.method).needs_class_means and not config.privacy.allow_class_statistics:
        why = f"{settings.method} sends class means, and privacy.allow_class_statistics is false"
        _refuse(config, STATISTICS, why)
    if not config.privacy.dp_sgd:
        return
    found = obstacles(settings)
    if found:
        _refuse(config, TRAINING, f"privacy.dp_sgd can't be done with this job; it needs {' and '.join(found)}")
    if len(config.devices) > 1:
        raise UserError(f"site {config.name}: privacy.dp_sgd trains on one device. Name one in devices.")


def _refuse(config: SiteConfig, category: str, why: str) -> NoReturn:
    raise Refusal(
        category, f"site {config.name} refuses the job: {why}. Change the job, or the site's settings if it may."
    )

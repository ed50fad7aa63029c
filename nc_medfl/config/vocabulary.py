"""Findings that a user names, as they stand in a job."""

from __future__ import annotations

from nc_medfl.settings import Settings


class OwnVocabulary(Settings):
    """A vocabulary that doesn't come with the package, written out: sites and server have no file of it.

    Attributes:
        name: a short name.
        findings: in the order of the classes.
    """

    name: str
    findings: tuple[str, ...]

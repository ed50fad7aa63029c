"""The errors a user is meant to read: one line each, no traceback."""

from __future__ import annotations


class NcMedflError(Exception):
    """What the command line prints as one line before it ends.

    The message says what, where, and what to do. It never holds a patient identifier or the free text of a
    record.
    """

    exit_code = 1


class UserError(NcMedflError):
    """A mistake the user can mend: bad input, a wrong key, a missing file."""

    exit_code = 2


class RunFailed(NcMedflError):
    """A federation that started and could not finish."""


class SiteFailed(RunFailed):
    """A federation that needs every site, and one's task failed. The site itself knows more than the server says."""


class Stopped(NcMedflError):
    """A run that its user stopped, with what there is to say about what is left of it."""

    exit_code = 130

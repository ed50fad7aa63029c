"""The one way in which the server says no to what a site sent."""

from __future__ import annotations


class RefusedUpdate(Exception):
    """An answer, or a part of one, that must not be used; the text says why, without a value of it."""

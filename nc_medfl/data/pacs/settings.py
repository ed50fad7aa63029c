"""What to fetch from which archive, and how gently."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field

from nc_medfl.data.pacs.address import check_secrecy, parse_address, read_credentials
from nc_medfl.data.pacs.query import Filters
from nc_medfl.errors import UserError

_FORMAT = 1


@dataclass(frozen=True)
class PacsSettings:
    """What to fetch from where, and how gently. Credentials are no part of it: they are in the environment.

    Attributes:
        address: ``dicomweb://HOST:PORT/PATH`` or ``dicomwebs://...`` (TLS).
        filters: which images.
        requests: how many requests may be under way at once.
        insecure_http: send credentials in clear text to another machine.
        patience: seconds an outage may last before it ends the fetch.
        page: how many answers to ask for at a time.
    """

    address: str
    filters: Filters = field(default_factory=Filters)
    requests: int = 4
    insecure_http: bool = False
    patience: float = 60.0
    page: int = 500

    def check(self) -> None:
        """Raise a UserError for a value that can't be meant, credentials in the environment included."""
        if not 1 <= self.requests <= 64:
            raise UserError(f"--requests {self.requests}: give 1 to 64.")
        check_secrecy(parse_address(self.address), read_credentials(os.environ), insecure_http=self.insecure_http)

    @property
    def plan_name(self) -> str:
        """Name of the plan's file: of this query at this archive and no other."""
        asked = {"format": _FORMAT, "url": parse_address(self.address).url, "queries": self.filters.study_queries()}
        asked |= {"modalities": sorted(self.filters.modalities), "body_parts": sorted(self.filters.body_parts)}
        return f"plan-{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]}.jsonl"

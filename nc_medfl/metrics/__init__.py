"""Metrics: how well findings are told, with what certainty, and how far class features have collapsed."""

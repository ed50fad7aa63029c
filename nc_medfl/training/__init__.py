"""Training on one site: a method (network and local loss), an optimiser, one pass over the site's data."""

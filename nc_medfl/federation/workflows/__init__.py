"""Jobs without training: one question to every site, and what comes of the answers.

A job's ``kind`` names its workflow. Each has a controller, which asks on the server, and a function that makes tables
of what the server left. ``nc_medfl.federation.controller`` holds the workflow of training.
"""

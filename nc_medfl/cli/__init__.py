"""The ``nc-medfl`` command: one file a verb; each parses, calls, and prints."""

"""From radiographs to a site's training set: reading, de-identifying, storing, loading.

``store`` and ``manifest`` define what lies on disk; ``prepare`` writes it; ``dataset`` and ``transforms``
feed it to a network; ``synthetic`` draws hospitals where there is none.
"""

"""The federation on NVIDIA FLARE, from a job's settings to the folder that a run leaves.

- A job: ``recipe`` makes it (``jobs``, ``arguments``), ``environments`` runs it, ``run_folder`` and ``portable`` keep
  what comes of it. ``local`` runs the same rounds in one process.
- The server: ``controller`` asks (``exchange``, ``turns``), ``aggregator`` takes in. Whether an update may come in:
  ``checks``, ``admission``, ``norms``. What is made of updates: ``averaging``, ``streaming``, ``exact``, ``spool``,
  ``robust``, ``server_step``, ``scaffold``, ``controls``. What is written down: ``roundlog``, ``answers``,
  ``class_statistics``, ``site_tables``, ``federation_wide``, ``choice``, ``points``, ``state``, ``tracking``.
- A site: ``client`` takes a task, ``trainers`` do it where they should, ``worker`` does it without a word of FLARE.
  What leaves, and what doesn't: ``policy``, ``privacy``, ``accounting``, ``label_counts``, ``score_counts``,
  ``final_test``, ``audit``. What stays: ``site_state``, ``best_model``. What it is told: ``site``, ``site_setup``,
  ``kit``, ``preflight``.
- Both: ``keys`` and ``tasks`` are what they agree on, ``wire`` and ``filters`` the numbers on their way.

Nothing here imports FLARE until it is asked for by module name: ``nvflare.recipe`` reads ``sys.argv`` when
it is imported.
"""

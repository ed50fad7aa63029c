"""Names that server and client must agree on."""

from __future__ import annotations

TASK_TRAIN = "train"
TASK_VALIDATE = "validate"
TASK_EVALUATE = "evaluate"
TASK_LABELS = "label_statistics"

# Keys in the meta of an update. Values are numbers, texts of numbers (JSON) or numpy arrays.
FINGERPRINTS = "nc_medfl.fingerprints"
COUNTS = "nc_medfl.counts"
FEATURE_SUMS = "nc_medfl.feature_sums"
N_SAMPLES = "nc_medfl.n_samples"
LOSSES = "nc_medfl.losses"
ROWS = "nc_medfl.rows"
#: Histograms of scores, as JSON text (``score_counts``).
HISTOGRAMS = "nc_medfl.histograms"
#: What thresholds cost and calibration at a site, as JSON text (``site_tables``).
TABLES = "nc_medfl.tables"
#: A mapping: what the site protects, and at which epsilon (``Guard.report``).
PRIVACY = "nc_medfl.privacy"
#: In the meta of a model that is sent: which federation it is of, so that a site finds its own state again.
RUN_ID = "nc_medfl.run_id"
#: In the header of a failed answer: a few words of why.
FAILURE = "nc_medfl.failure"
#: Written by the server itself: bytes of an update's numbers as they came.
BYTES = "nc_medfl.bytes"

# Files that the server leaves in its run folder, and the command collects.
RESULTS_FOLDER = "nc_medfl"
ROUNDS_CSV = "rounds.csv"
COLLAPSE_CSV = "collapse.csv"
UPDATES_CSV = "updates.csv"
PRIVACY_CSV = "privacy.csv"
SITE_METRICS = "site_metrics.json"
SITE_TABLES = "site_tables.json"
FEDERATION_CSV = "federation.csv"
PROGRESS = "progress.jsonl"
BEST_MODEL = "model_best.pt"
LAST_MODEL = "model_last.pt"
ROUND_MODEL = "model_round{}.pt"
CONTROLS = "scaffold_controls.pt"
#: What the server's own optimiser remembers, and the models whose mean is handed out.
SERVER_STATE = "server_state.safetensors"
SERVER_MODEL = "server_model_{}.safetensors"
TENSORBOARD = "tensorboard"
MLRUNS = "mlruns"
SUMMARY = "summary.json"

#: The file in the results folder in which the server says why it ended the job.
SERVER_ERROR = "server_error.json"
#: The file in which a client that failed says why, in its own workspace (it does not travel).
CLIENT_ERROR = "nc_medfl_error.json"

# Where a process looks for its site's settings.
ENV_SITE_CONFIG = "NC_MEDFL_SITE_CONFIG"
ENV_SITES_DIR = "NC_MEDFL_SITES_DIR"
#: The process id of the client that a trainer process works for.
ENV_PARENT = "NC_MEDFL_PARENT"
ENV_STATE_DIR = "NC_MEDFL_STATE_DIR"
#: Numbers of rounds, joined by commas, whose models a server leaves in its results (:data:`ROUND_MODEL`).
ENV_KEEP_MODELS = "NC_MEDFL_KEEP_MODELS"
#: ``N:FOLDER`` where the sites of one machine take turns, N at a time.
ENV_TURNS = "NC_MEDFL_TURNS"

#: The group under which the server's progress stands in FLARE's ``show_stats``.
STATS_GROUP = "nc_medfl"

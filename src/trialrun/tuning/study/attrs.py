"""Names of the Optuna attributes that a study and its trials store.

Existing studies hold these names: their texts must not change.
"""

# User attributes of a study.
SIGNATURE = "signature"  # the settings that every call on the study must repeat
PARENT_RUN = "parent_run_id"
FINALIZED = "concluded"  # the outcome of the last finalized search
DATA = "data_digest"
NUM_MODELS = "models_kept"  # of how many of the best settings the models are logged
BATCH_LIMIT = "batch_size_too_large"  # the smallest batch size that exceeded the memory
PRETRAINED = "pretrained:"  # and a network: whether its pretrained weights can be had

# User attributes of a trial.
WORKER = "worker"
PROCESS = "process"  # of the worker: the text of a heartbeat
RUN_ID = "run_id"
MODEL_URI = "model_uri"
RESULT = "result"
SEED_NUMBER = "seed_number"  # its number among the trials that are not retries
ERROR = "error"  # the error of a trial that failed by itself
INTERRUPTED = "cut"  # the reason that its worker stopped
OUT_OF_MEMORY = "does_not_fit"
IMPOSSIBLE = "impossible"  # the reason that its settings cannot be combined

# User attributes of a replicate.
SETTINGS = "settings"  # its settings; on the study: True marks a study of replicates
REPLICATE = "replicate"  # the index of its seed
REPLICATE_OF = "of_trial"  # the number of the trial that it repeats

# System attributes of a retried trial: Optuna's own names, which its dashboard shows.
RETRY_OF = "failed_trial"
RETRY_HISTORY = "retry_history"

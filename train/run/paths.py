"""The names of the files in a work folder."""

# Of a run.
CONFIG = 'config.json'
METRICS = 'metrics.jsonl'
SUMMARY = 'summary.json'
LOSS_FIGURE = 'loss.png'
CHECKPOINTS = 'checkpoints'
TENSORBOARD = 'tensorboard'
LOCK = 'lock'

# Of a study.
RESULTS = 'results.jsonl'
TABLE = 'table.md'
FIGURE = 'compare.png'

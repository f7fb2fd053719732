"""RoBERTa-base fine-tuned on GLUE with TSR-Adam, rank 256 (arXiv 2602.08007).

Protocol: 30 epochs, up to 512 tokens, rank 256 and a refresh every 200 steps,
embeddings included. The paper's learning rates are between 1e-5 and 3e-5.
Scores are those of the validation part.

Command: python -m train configs/tsr/glue.py:cola --data.data_dir FOLDER
  FOLDER holds glue/cola (see `python -m train.prepare --help`), and
  data/roberta-base the config.json, model.safetensors and tokenizer.json of
  roberta-base. --compression.method dense --workdir ANOTHER is the baseline.
Hardware: 4 GPUs, or one with --mesh.replica 1 (then nothing is sent).
Published: over all of GLUE 85.54, Adam 86.28, GaLore 85.17.
Our numbers: none.
Deviations: 4 workers share the batch; the schedule is not known to us, a
  warm-up over 10 % and a cosine to 0 are a guess; the workers average sketches
  instead of bases (--compression.average bases is the paper's way).
"""

from train.config.schema import *

base = Config(
  batch_size=16,
  data=Data(tokenizer='data/roberta-base/tokenizer.json', sequence_length=512),
  model=Model(name='bert', pretrained='data/roberta-base', dropout=0.1),
  optimizer=Optimizer(learning_rate=2e-5, final_fraction=0.0, weight_decay=0.0),
  compression=Compression(
    method='tsr_adam', rank=256, update_interval=200, embeddings=True, scale=2.0
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(sequences=0),
  checkpoint=Checkpoint(every=1000),
)

variants = {
  'cola': dict(
    about="8,551 examples in batches of 32, Matthews' correlation, scale 8;"
    ' published over all of GLUE: 85.54, Adam 86.28',
    steps=8017,
    batch_size=32,
    data=dict(source='glue/cola'),
    compression=dict(scale=8.0),
    evaluation=dict(every=267),
  ),
  'mrpc': dict(
    about='3,668 examples in batches of 16, accuracy and F1, scale 2; published'
    ' over all of GLUE: 85.54, Adam 86.28',
    steps=6878,
    data=dict(source='glue/mrpc'),
    evaluation=dict(every=229),
  ),
  'sst2': dict(
    about='67,349 examples in batches of 16, accuracy, scale 2; published over'
    ' all of GLUE: 85.54, Adam 86.28',
    steps=126_279,
    data=dict(source='glue/sst2'),
    evaluation=dict(every=4209),
  ),
  'stsb': dict(
    about="5,749 examples in batches of 16, Pearson's and Spearman's"
    ' correlation, scale 2; published over all of GLUE: 85.54, Adam 86.28',
    steps=10_779,
    data=dict(source='glue/stsb'),
    evaluation=dict(every=359),
  ),
}

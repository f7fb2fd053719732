"""RoBERTa-base fine-tuned on GLUE with GreedyLore (arXiv 2507.08784, app. F).

Protocol: 10 epochs in batches of 16, 256 tokens, a linear warm-up over 10 % of
the steps and a cosine; 1,000 dense steps, then a refresh every 200 steps;
rank 8, or 16 with --compression.rank 16; embeddings and classifier are dense.
Scores are those of the validation part.

Command: python -m train configs/greedylore/glue.py:cola --data.data_dir FOLDER
  FOLDER holds glue/cola (see `python -m train.prepare --help`), and
  data/roberta-base the config.json, model.safetensors and tokenizer.json of
  roberta-base. --compression.method dense --workdir ANOTHER is the baseline.
Hardware: 4 GPUs, or one with --mesh.replica 1 (then nothing is sent).
Published numbers are of a reproduction with Muon as the optimizer.
Our numbers: none; configs/studies/glue.py has a smaller encoder.
Deviations: 4 workers share the batch; the learning rate is not known to us,
  2e-5 is a guess.
"""

from train.config.schema import *

base = Config(
  batch_size=16,
  data=Data(tokenizer='data/roberta-base/tokenizer.json', sequence_length=256),
  model=Model(name='bert', pretrained='data/roberta-base', dropout=0.1),
  optimizer=Optimizer(learning_rate=2e-5, final_fraction=0.0),
  compression=Compression(
    method='greedylore', rank=8, update_interval=200, start_step=1000
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(sequences=0),
  checkpoint=Checkpoint(every=1000),
)

variants = {
  'cola': dict(
    about="8,551 examples; published Matthews' correlation: dense .616,"
    ' r = 8 .613, r = 16 .618',
    steps=5344,
    data=dict(source='glue/cola'),
    evaluation=dict(every=534),
  ),
  'mrpc': dict(
    about='3,668 examples, scored by accuracy and F1; published, the paper does'
    ' not say which: dense .892, r = 8 .880, r = 16 .892',
    steps=2292,
    data=dict(source='glue/mrpc'),
    evaluation=dict(every=229),
  ),
  'sst2': dict(
    about='67,349 examples; published accuracy: dense .916, r = 8 .930,'
    ' r = 16 .931',
    steps=42_093,
    data=dict(source='glue/sst2'),
    evaluation=dict(every=4209),
  ),
  'stsb': dict(
    about="5,749 examples, scored by Pearson's and Spearman's correlation; the"
    ' published number is not known to us',
    steps=3593,
    data=dict(source='glue/stsb'),
    evaluation=dict(every=359),
  ),
}

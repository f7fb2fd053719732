"""A small pre-trained BERT learns STS-B: how similar two sentences are.

What it shows: fine-tuning with compressed gradients: 22.7M parameters, 4
simulated workers, an epoch of 5,749 examples in steps of 32, 64 tokens each
(the end of 3 % of the pairs is cut); dense for the first 40 steps, embeddings
and classifier throughout. Scored by Pearson's and Spearman's correlation on the
validation part.

Command: python -m train configs/glue_stsb.py --data.data_dir FOLDER with
  glue/stsb of tensorflow-datasets there (python -m train.prepare) and in
  data/minilm the config.json, model.safetensors and tokenizer.json of
  all-MiniLM-L6-v2; `make glue-stsb` is the study, with dense beside it.
Cost: 7 to 10 minutes a run on two busy cores.
Results: Spearman dense .809, r = 8 .763, r = 16 .745, in 360 steps .858 and
  .854; EXPERIMENTS.md, 'GLUE'.
Deviations from the papers: a smaller encoder, fewer and shorter examples, no
  dropout.
"""

from train.config.schema import Checkpoint
from train.config.schema import Compression
from train.config.schema import Config
from train.config.schema import Data
from train.config.schema import Evaluation
from train.config.schema import Log
from train.config.schema import Mesh
from train.config.schema import Model
from train.config.schema import Optimizer

config = Config(
  steps=180,
  batch_size=32,
  data=Data(
    source='glue/stsb',
    tokenizer='data/minilm/tokenizer.json',
    sequence_length=64,
  ),
  model=Model(name='bert', pretrained='data/minilm'),
  optimizer=Optimizer(
    name='adamw', learning_rate=1e-4, final_fraction=0.0, weight_decay=1e-2
  ),
  compression=Compression(
    method='greedylore', rank=8, update_interval=50, start_step=40
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=90, sequences=0),
  checkpoint=Checkpoint(every=0),
  log=Log(tensorboard=False, diagnostics=False),
)

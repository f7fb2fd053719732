"""A small pre-trained BERT learns MRPC: whether two sentences say the same.

What it shows: fine-tuning with compressed gradients: 22.7M parameters, 4
simulated workers, an epoch of 3,668 examples in steps of 32, 64 tokens each (of
every fifth pair the end is cut); dense for the first 20 steps, embeddings and
classifier throughout. Scored by accuracy and F1 on the validation part.

Command: python -m train configs/glue_mrpc.py --data.data_dir FOLDER with
  glue/mrpc of tensorflow-datasets there (python -m train.prepare) and in
  data/minilm the config.json, model.safetensors and tokenizer.json of
  all-MiniLM-L6-v2; `make glue-mrpc` is the study, with dense beside it.
Cost: four to ten minutes a run on two busy cores.
Results: dense 76.0 %, r = 8 70.3 %, r = 16 75.0 %; EXPERIMENTS.md, 'GLUE'.
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
  steps=115,
  batch_size=32,
  data=Data(
    source='glue/mrpc',
    tokenizer='data/minilm/tokenizer.json',
    sequence_length=64,
  ),
  model=Model(name='bert', pretrained='data/minilm'),
  optimizer=Optimizer(
    name='adamw', learning_rate=2e-4, final_fraction=0.0, weight_decay=1e-2
  ),
  compression=Compression(
    method='greedylore', rank=8, update_interval=40, start_step=20
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=115, sequences=0),
  checkpoint=Checkpoint(every=0),
  log=Log(tensorboard=False, diagnostics=False),
)

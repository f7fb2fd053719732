"""A small pre-trained BERT learns SST-2: whether a review is for a film.

What it shows: fine-tuning with compressed gradients: 22.7M parameters, 4
simulated workers, 5,120 of 67,349 examples in steps of 32, 32 tokens each (one
sentence in twenty is cut); dense for the first 20 steps, embeddings and
classifier throughout. Scored by accuracy on the validation part.

Command: python -m train configs/glue_sst2.py --data.data_dir FOLDER with
  glue/sst2 of tensorflow-datasets there (python -m train.prepare) and in
  data/minilm the config.json, model.safetensors and tokenizer.json of
  all-MiniLM-L6-v2; `make glue-sst2` is the study, with dense beside it.
Cost: four to ten minutes a run on two busy cores.
Results: dense 83.1 %, r = 8 82.2 %, r = 16 82.3 %; EXPERIMENTS.md, 'GLUE'.
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
  steps=160,
  batch_size=32,
  data=Data(
    source='glue/sst2',
    tokenizer='data/minilm/tokenizer.json',
    sequence_length=32,
  ),
  model=Model(name='bert', pretrained='data/minilm'),
  optimizer=Optimizer(
    name='adamw', learning_rate=1e-4, final_fraction=0.0, weight_decay=1e-2
  ),
  compression=Compression(
    method='greedylore', rank=8, update_interval=40, start_step=20
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=80, sequences=0),
  checkpoint=Checkpoint(every=0),
  log=Log(tensorboard=False, diagnostics=False),
)

"""A small pre-trained BERT learns CoLA: whether a sentence is grammatical.

What it shows: fine-tuning with compressed gradients: 22.7M parameters, 4
simulated workers, two epochs of 8,551 examples in steps of 32, 24 tokens each
(one sentence in a hundred is cut); dense for the first 40 steps, embeddings and
classifier throughout. Scored by Matthews' correlation on the validation part.

Command: python -m train configs/glue_cola.py --data.data_dir FOLDER with
  glue/cola of tensorflow-datasets there (python -m train.prepare) and in
  data/minilm the config.json, model.safetensors and tokenizer.json of
  all-MiniLM-L6-v2; `make glue-cola` is the study, with dense beside it.
Cost: 12 to 18 minutes a run on two busy cores.
Results: dense .295, r = 8 .290, r = 16 .301; EXPERIMENTS.md, 'GLUE'.
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
  steps=534,
  batch_size=32,
  data=Data(
    source='glue/cola',
    tokenizer='data/minilm/tokenizer.json',
    sequence_length=24,
  ),
  model=Model(name='bert', pretrained='data/minilm'),
  optimizer=Optimizer(
    name='adamw', learning_rate=5e-5, final_fraction=0.0, weight_decay=1e-2
  ),
  compression=Compression(
    method='greedylore', rank=8, update_interval=50, start_step=40
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=178, sequences=0),
  checkpoint=Checkpoint(every=0),
  log=Log(tensorboard=False, diagnostics=False),
)

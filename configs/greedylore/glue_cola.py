"""RoBERTa-base fine-tuned on CoLA of GLUE with GreedyLore, rank 8.

What it reproduces: appendix F of arXiv 2507.08784: 10 epochs of 8,551 examples
in batches of 16, 5,344 steps, 256 tokens, a linear warm-up over 10 % and a
cosine; 1,000 dense steps, then a refresh every 200; embeddings and classifier
dense. Rank 16 with --compression.rank 16. Scored by Matthews' correlation on
the validation part.

Command: python -m train configs/greedylore/glue_cola.py --data.data_dir FOLDER
  with glue/cola there, see `python -m train.prepare`, and in data/roberta-base
  the config.json, model.safetensors and tokenizer.json of roberta-base;
  --compression.method dense --workdir ANOTHER is the baseline.
Hardware: 4 GPUs, or one with --mesh.replica 1 (then nothing is sent).
Published: dense .616, r = 8 .613, r = 16 .618 (a reproduction, Muon behind it).
Ours: not run; EXPERIMENTS.md, 'GLUE', has a smaller encoder.
Deviations: 4 workers share the batch; the learning rate is not known to us,
  2e-5 is a guess.
"""

from train.config.schema import Checkpoint
from train.config.schema import Compression
from train.config.schema import Config
from train.config.schema import Data
from train.config.schema import Evaluation
from train.config.schema import Mesh
from train.config.schema import Model
from train.config.schema import Optimizer

config = Config(
  steps=5344,
  batch_size=16,
  data=Data(
    source='glue/cola',
    tokenizer='data/roberta-base/tokenizer.json',
    sequence_length=256,
  ),
  model=Model(name='bert', pretrained='data/roberta-base', dropout=0.1),
  optimizer=Optimizer(learning_rate=2e-5, final_fraction=0.0),
  compression=Compression(
    method='greedylore', rank=8, update_interval=200, start_step=1000
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=534, sequences=0),
  checkpoint=Checkpoint(every=1000),
)

"""RoBERTa-base fine-tuned on STS-B of GLUE with TSR-Adam, rank 256.

What it reproduces: the fine-tuning of arXiv 2602.08007: 30 epochs of 5,749
examples in batches of 16, 10,779 steps, up to 512 tokens, rank 256 and a
refresh every 200 steps, for embeddings too; scale 2. Its rates are between 1e-5
and 3e-5. Scored by Pearson's and Spearman's correlation on the validation part.

Command: python -m train configs/tsr/glue_stsb.py --data.data_dir FOLDER with
  glue/stsb there, see `python -m train.prepare`, and in data/roberta-base the
  config.json, model.safetensors and tokenizer.json of roberta-base;
  --compression.method dense --workdir ANOTHER is the baseline.
Hardware: 4 GPUs, or one with --mesh.replica 1 (then nothing is sent).
Published: over all of GLUE 85.54, Adam 86.28, GaLore 85.17.
Ours: not run.
Deviations: 4 workers share the batch; the schedule is not known to us, a
  warm-up over 10 % and a cosine to 0 are a guess; sketches are averaged, not
  bases (--compression.average bases is the paper's way).
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
  steps=10_779,
  batch_size=16,
  data=Data(
    source='glue/stsb',
    tokenizer='data/roberta-base/tokenizer.json',
    sequence_length=512,
  ),
  model=Model(name='bert', pretrained='data/roberta-base', dropout=0.1),
  optimizer=Optimizer(learning_rate=2e-5, final_fraction=0.0, weight_decay=0.0),
  compression=Compression(
    method='tsr_adam', rank=256, update_interval=200, embeddings=True, scale=2.0
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=359, sequences=0),
  checkpoint=Checkpoint(every=1000),
)

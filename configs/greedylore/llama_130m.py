"""LLaMA 130M (134.1M parameters) on C4 with GreedyLore, rank 32.

What it reproduces: the pre-training protocol of GreedyLore (arXiv 2507.08784,
section VII): sequences of 256, 512 per step, AdamW without decay, clip 1, a
linear warm-up over 10 % of the steps and a cosine to 10 %; 1,000 dense steps,
then a refresh every 200; embedding and head dense. The rate is one of
{1.5e-3, 2.5e-3, 5e-3} and has to be tuned.
Published: dense 24.73 (perplexity, AdamW).

Command: python -m train configs/greedylore/llama_130m.py --data.data_dir FOLDER
  --data.tokenizer T5.model
  with c4/en of tensorflow-datasets below FOLDER, as array_record, and the
  SentencePiece model of t5-base; on several hosts with --distributed.*. For the
  dense run, --compression.method dense --workdir ANOTHER. Documents are read
  when their turn comes, and a short one is followed by those behind it.
Hardware: GPUs or TPUs with bfloat16. Our number: not run at full length.
"""

from train.config.schema import Checkpoint
from train.config.schema import Compression
from train.config.schema import Config
from train.config.schema import Data
from train.config.schema import Evaluation
from train.config.schema import Model
from train.config.schema import Optimizer

config = Config(
  steps=20_000,
  batch_size=512,
  data=Data(
    source='c4/en',
    stream=True,
    max_bytes=10_000_000,
    tokenizer='data/t5.model',
    sequence_length=256,
  ),
  model=Model(
    width=768, layers=12, heads=12, feed_forward=2048, dtype='bfloat16'
  ),
  optimizer=Optimizer(learning_rate=2.5e-3, weight_decay=0.0),
  evaluation=Evaluation(every=1000),
  checkpoint=Checkpoint(every=1000),
  compression=Compression(rank=32, update_interval=200, start_step=1000),
)

"""GreedyLore's pre-training in small: a LLaMA of 2.1M parameters on English.

What it shows: the protocol of `configs/greedylore/llama.py` in proportion, for
two cores: 2,000 steps of 1,024 tokens, 4 simulated workers, a tenth of the
steps dense, a refresh every 2 % of them; embedding and head are dense. Ranks of
d / 16 and d / 4 are 8 and 32.

Command: any English text makes the data and a vocabulary:
  python -m train.prepare english --texts TEXTS ... --vocabulary 4096
  python -m train configs/studies/llama_2m.py --data.held_out FILE c4/en
  `make english` is the study, with the test split of wikitext-2 as
  data/wiki.test.txt and C4 (python -m train.prepare c4/en).
Cost: 10 to 14 minutes a run on two cores that share the machine with another.
Results: perplexity relative to dense: PowerSGD r = 32 in 8 bits -0.5 %, r = 8
  +2.2 %, GreedyLore r = 32 +1.7 %, r = 8 +9.9 %; all in experiments/english.
"""

from train.config.schema import *

config = Config(
  steps=2000,
  batch_size=4,
  data=Data(
    source='english',
    tokenizer='~/tensorflow_datasets/english/tokenizer.json',
    sequence_length=256,
  ),
  model=Model(width=128, layers=4, heads=4, feed_forward=512),
  optimizer=Optimizer(learning_rate=2e-3, weight_decay=0.0),
  compression=Compression(rank=32, update_interval=40, start_step=200),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=500, sequences=256),
  checkpoint=Checkpoint(every=1000, keep=1),
  log=Log(tensorboard=False),
)

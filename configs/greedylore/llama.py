"""LLaMA pre-trained on C4 with GreedyLore (arXiv 2507.08784, section VII).

Protocol: 512 sequences of 256 tokens per step, AdamW without weight decay,
gradients clipped to norm 1, a linear warm-up over 10 % of the steps and a
cosine to 10 % of the peak; 1,000 dense steps, then a refresh every 200 steps;
embedding and head are dense. The learning rate is one of {1.5e-3, 2.5e-3, 5e-3}
and has to be tuned.

Command: python -m train configs/greedylore/llama.py:60m --data.data_dir FOLDER
  --data.tokenizer T5.model. FOLDER holds c4/en of tensorflow-datasets as
  array_record, and T5.model is the SentencePiece model of t5-base. Documents
  are read as training needs them; a sequence continues with the next document
  where one ends. Several hosts also need --distributed.*.
  --compression.method dense --workdir ANOTHER is the dense baseline.
Ablations: `ablation_projection` draws the r directions of the basis at random
  instead of choosing them by their scores; compare it with 130m. With
  --compression.start_step 0 both compress from the first step on.
  `ablation_error_feedback` drops whatever is not sent; compare it with 350m.
  --compression.method fixed_subspace stands for GaLore.
Hardware: GPUs or TPUs with bfloat16; one CPU is enough to try 9m.
Our numbers: none at full length. experiments/llama_60m has 400 small steps on
  English text (`make llama-60m`), and experiments/ablation_projection and
  experiments/ablation_error_feedback have a model of 0.86M parameters.
"""

from train.config.schema import *

base = Config(
  batch_size=512,
  data=Data(
    source='c4/en',
    stream=True,
    max_bytes=10_000_000,
    tokenizer='data/t5.model',
    sequence_length=256,
  ),
  model=Model(dtype='bfloat16'),
  optimizer=Optimizer(weight_decay=0.0),
  compression=Compression(rank=32, update_interval=200, start_step=1000),
  evaluation=Evaluation(every=1000),
  checkpoint=Checkpoint(every=1000),
)

variants = {
  '9m': dict(
    about='9.0M parameters, r = 16; for trying out, in no table of the paper',
    steps=10_000,
    model=dict(width=128, layers=4, heads=4, feed_forward=352, dtype='float32'),
    optimizer=dict(learning_rate=1.5e-3),
    compression=dict(rank=16),
  ),
  '60m': dict(
    about='58.1M parameters, r = 32; published: dense perplexity 33.44 (AdamW)',
    steps=10_000,
    model=dict(width=512, layers=8, heads=8, feed_forward=1376),
    optimizer=dict(learning_rate=2.5e-3),
  ),
  '130m': dict(
    about='134.1M parameters, r = 32; published: dense perplexity 24.73'
    ' (AdamW)',
    steps=20_000,
    model=dict(width=768, layers=12, heads=12, feed_forward=2048),
    optimizer=dict(learning_rate=2.5e-3),
  ),
  '350m': dict(
    about='368.0M parameters, r = 32; published: the two ablations',
    steps=60_000,
    model=dict(width=1024, layers=24, heads=16, feed_forward=2736, remat=True),
    optimizer=dict(learning_rate=1.5e-3),
  ),
  '1b': dict(
    about='1,339.1M parameters, r = 32; published: timings. The length of'
    ' training is not known to us',
    steps=60_000,
    model=dict(width=2048, layers=24, heads=32, feed_forward=5461, remat=True),
    optimizer=dict(learning_rate=1.5e-3),
  ),
  'ablation_projection': dict(
    about='130m with random instead of greedy directions',
    like='130m',
    compression=dict(method='random_subspace'),
  ),
  'ablation_error_feedback': dict(
    about='350m without error feedback',
    like='350m',
    compression=dict(error_feedback=False),
  ),
  '60m_english': dict(
    about='60m in 400 steps of 1,024 tokens of English, for a CPU',
    like='60m',
    steps=400,
    batch_size=4,
    data=dict(source='english', stream=False),
    model=dict(dtype='float32'),
    optimizer=dict(learning_rate=1e-3),
    compression=dict(embeddings=True, start_step=12),
    mesh=dict(replica=4),
    evaluation=dict(every=100, sequences=64),
    checkpoint=dict(every=100, keep=1),
    log=dict(tensorboard=False),
  ),
}

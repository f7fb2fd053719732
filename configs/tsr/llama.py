"""LLaMA pre-trained on C4 with TSR-Adam (arXiv 2602.08007).

Protocol: 262K tokens per step, a learning rate of 0.01 with a warm-up over 10 %
of the steps and a cosine to 10 %, no weight decay, eps 1e-6; cores of
rank x rank with a refresh every 100 steps, smaller ones with a refresh every
2 steps for embedding and head.

Command: python -m train configs/tsr/llama.py:60m --data.data_dir FOLDER
  --data.tokenizer T5.model, with the data of configs/greedylore/llama.py;
  several hosts also need --distributed.*. The dense baseline:
  --compression.method dense --workdir ANOTHER with its own learning rate.
Hardware: GPUs or TPUs with bfloat16. Our numbers: none at full length.
Published are losses and the average megabytes per step without those of the
  head. `print(gl.plan(...))` counts the head.
Deviations: the head is compressed like the embedding, as the paper does not say
  what it does; the workers average sketches instead of bases
  (--compression.average bases is the paper's way).
"""

from train.config.schema import *

base = Config(
  batch_size=1024,
  data=Data(
    source='c4/en',
    stream=True,
    max_bytes=10_000_000,
    tokenizer='data/t5.model',
    sequence_length=256,
  ),
  model=Model(dtype='bfloat16'),
  optimizer=Optimizer(learning_rate=0.01, weight_decay=0.0, eps=1e-6),
  compression=Compression(
    method='tsr_adam',
    update_interval=100,
    embeddings=True,
    embedding_update_interval=2,
    scale=0.75,
  ),
  evaluation=Evaluation(every=1000),
  checkpoint=Checkpoint(every=1000),
)

variants = {
  '60m': dict(
    about='58.1M parameters, rank 256 and 64, scale 0.5; published: loss 3.61,'
    ' AdamW 3.53; 20.0 MB, dense 167',
    steps=20_000,
    model=dict(width=512, layers=8, heads=8, feed_forward=1376),
    compression=dict(rank=256, embedding_rank=64, scale=0.5),
  ),
  '130m': dict(
    about='134.1M parameters, rank 384 and 96, scale 0.75; published: loss'
    ' 3.36, AdamW 3.22; 58.9 MB, dense 438',
    steps=20_000,
    model=dict(width=768, layers=12, heads=12, feed_forward=2048),
    compression=dict(rank=384, embedding_rank=96),
  ),
  '350m': dict(
    about='368.0M parameters, rank 384 and 128, scale 0.75; published: loss'
    ' 3.16, AdamW 2.93; 115.2 MB, dense 1,340. 60,000 steps are a guess',
    steps=60_000,
    model=dict(width=1024, layers=24, heads=16, feed_forward=2736, remat=True),
    compression=dict(rank=384, embedding_rank=128),
  ),
  '1b': dict(
    about='1,339.1M parameters, rank 512 and 256, scale 0.75; published: loss'
    ' 3.08, AdamW 2.74; 213.5 MB, dense 5,090. 60,000 steps are a guess',
    steps=60_000,
    model=dict(width=2048, layers=24, heads=32, feed_forward=5461, remat=True),
    compression=dict(rank=512, embedding_rank=256),
  ),
}

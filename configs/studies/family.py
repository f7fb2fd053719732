"""Every method of the library on the same small LLaMA, at the same bytes.

What it shows: what each method reaches when all of them send the same number of
times fewer bytes than dense AdamW over the whole run; 0.86M parameters, 4
simulated workers, 1,500 steps of 1,024 bytes of the Python standard library.

Command: make experiments; one run is python -m train configs/studies/family.py
Cost: two to three minutes a run on two cores; 4m takes a quarter of an hour, or
  more on a busy machine.
Results: experiments/family, experiments/family_4m and, for the ablation,
  experiments/ablation_projection and experiments/ablation_error_feedback.
"""

from train.config.schema import *

config = Config(
  steps=1500,
  batch_size=4,
  data=Data(source='python-stdlib', tokenizer='bytes', sequence_length=256),
  model=Model(width=128, layers=4, heads=4, feed_forward=344),
  optimizer=Optimizer(name='adamw', learning_rate=2e-3),
  compression=Compression(
    method='powersgd',
    rank=16,
    update_interval=100,
    start_step=45,
    embeddings=True,
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=250, sequences=256),
  checkpoint=Checkpoint(every=750, keep=1),
  log=Log(tensorboard=False),
)

variants = {
  '4m': dict(
    about='The front-runners of the family on 4.1M parameters.',
    model=dict(width=256, layers=5, feed_forward=688),
  ),
  'ablation': dict(
    about="GreedyLore's ablations of projection and error feedback, r = 32",
    optimizer=dict(learning_rate=1e-3),
    compression=dict(rank=32),
  ),
}

"""A small pre-trained BERT on four tasks of GLUE: fine-tuning for two cores.

What it shows: fine-tuning with compressed gradients: 22.7M parameters, 4
simulated workers, steps of 32 examples; dense for the first 20 or 40 steps,
embeddings and classifier throughout. Scored on the validation part.

Command: python -m train configs/studies/glue.py:cola --data.data_dir FOLDER
  FOLDER holds glue/cola of tensorflow-datasets (see `python -m train.prepare
  --help`), and data/minilm the config.json, model.safetensors and
  tokenizer.json of all-MiniLM-L6-v2. `make glue-cola` is the study.
Cost: 4 to 10 minutes a run on two busy cores, 12 to 18 for CoLA.
Results: experiments/glue.
Deviations from the papers: a smaller encoder, fewer and shorter examples, no
  dropout.
"""

from train.config.schema import *

base = Config(
  batch_size=32,
  data=Data(tokenizer='data/minilm/tokenizer.json'),
  model=Model(name='bert', pretrained='data/minilm'),
  optimizer=Optimizer(
    name='adamw', learning_rate=1e-4, final_fraction=0.0, weight_decay=1e-2
  ),
  compression=Compression(method='greedylore', rank=8),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(sequences=0),
  checkpoint=Checkpoint(every=0),
  log=Log(tensorboard=False, diagnostics=False),
)

variants = {
  'cola': dict(
    about='CoLA: is a sentence grammatical? 2 epochs of 8,551 examples, 24'
    " tokens (1 % are cut); Matthews' correlation: dense .295, r = 8 .290,"
    ' r = 16 .301',
    steps=534,
    data=dict(source='glue/cola', sequence_length=24),
    optimizer=dict(learning_rate=5e-5),
    compression=dict(update_interval=50, start_step=40),
    evaluation=dict(every=178),
  ),
  'mrpc': dict(
    about='MRPC: do two sentences say the same? 1 epoch of 3,668 examples, 64'
    ' tokens (20 % are cut); accuracy (and F1): dense 76.0 %, r = 8 70.3 %,'
    ' r = 16 75.0 %',
    steps=115,
    data=dict(source='glue/mrpc', sequence_length=64),
    optimizer=dict(learning_rate=2e-4),
    compression=dict(update_interval=40, start_step=20),
    evaluation=dict(every=115),
  ),
  'sst2': dict(
    about='SST-2: is a review positive? 5,120 of 67,349 examples, 32 tokens'
    ' (5 % are cut); accuracy: dense 83.1 %, r = 8 82.2 %, r = 16 82.3 %',
    steps=160,
    data=dict(source='glue/sst2', sequence_length=32),
    compression=dict(update_interval=40, start_step=20),
    evaluation=dict(every=80),
  ),
  'stsb': dict(
    about='STS-B: how similar are two sentences? 1 epoch of 5,749 examples, 64'
    " tokens (3 % are cut); Spearman's (and Pearson's) correlation: dense .809,"
    ' r = 8 .763, r = 16 .745; in 360 steps dense .858, r = 8 .854',
    steps=180,
    data=dict(source='glue/stsb', sequence_length=64),
    compression=dict(update_interval=50, start_step=40),
    evaluation=dict(every=90),
  ),
}

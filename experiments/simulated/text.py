"""Text for the runs, also on a machine that does not have it.

    python -m experiments.simulated.text CONFIG FILE

saves the windows of a configuration's text to FILE (.npz).
"""

import functools
import json
import pathlib
import sys

import numpy as np

from train.config import reader
from train.config.schema import Data
from train.data import text as text_lib
from train.data import windows


def main(config: str, file: str) -> None:
  """Saves the text of a configuration."""
  text = text_lib.load(reader.load(config).data)
  (held_out,) = text.held_out
  about = {
    'description': text.description,
    'vocab_size': text.vocab_size,
    'bytes_per_token': held_out.bytes_per_token,
    'tokens': held_out.tokens,
    'sha256': held_out.sha256,
  }
  np.savez_compressed(
    file,
    training=np.asarray(text.training_windows),
    held_out=held_out.windows,
    about=json.dumps(about),
  )


@functools.cache
def load(data: Data, saved: pathlib.Path | None) -> text_lib.TextData:
  """The text of a configuration, or what `main` has saved of it."""
  if saved is None:
    return text_lib.load(data)
  with np.load(saved) as file:
    about = json.loads(str(file['about']))
    training, held_out = file['training'], file['held_out']
  if training.shape[1] != data.sequence_length + 1:
    raise ValueError(
      f'{saved} must have windows of data.sequence_length + 1 ='
      f' {data.sequence_length + 1} tokens, got {training.shape[1]}: save the'
      ' text of this configuration.'
    )
  of_held_out = [about[x] for x in ('bytes_per_token', 'tokens', 'sha256')]
  return text_lib.TextData(
    description=about['description'],
    vocab_size=about['vocab_size'],
    training_windows=training,
    held_out=(windows.HeldOut('', held_out, *of_held_out),),
    remarks=(),
    seed=data.seed,
  )


if __name__ == '__main__':
  main(*sys.argv[1:])

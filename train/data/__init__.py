"""Text for language models: `load(config.data)` is all the trainer needs."""

from train.data.text import TextData
from train.data.text import load

__all__ = ['TextData', 'load']

"""What there is to learn: `load(config)` is all that the trainer needs."""

from train.config.schema import Config
from train.data import text
from train.tasks.base import Batches, Task
from train.tasks.images import ImageClassification
from train.tasks.language import LanguageModeling
from train.tasks.sentences import SentenceClassification

__all__ = [
  'Batches',
  'ImageClassification',
  'LanguageModeling',
  'SentenceClassification',
  'Task',
  'load',
]


def load(config: Config) -> Task:
  """The task of a configuration: its model says which, its data on what.

  Raises:
    ValueError: the data are not there, are damaged or do not fit the model.
    ImportError: the library that reads them is not installed.
  """
  if config.model.name == 'llama':
    return LanguageModeling(config, text.load(config.data))
  if config.model.name == 'bert':
    return SentenceClassification(config)
  return ImageClassification(config)

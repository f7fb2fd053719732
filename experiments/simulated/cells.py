"""A cell of a study: a configuration, some learning rates, some seeds."""

from typing import NamedTuple


class Cell(NamedTuple):
  """One program of a study.

  Attributes:
    overrides: keys of the configuration, '--section.key VALUE ...'.
    rates: the learning rates, of which the best counts.
    seeds: how many seeds each rate gets.
    config: the configuration whose keys `overrides` changes.
  """

  overrides: str
  rates: tuple[float, ...]
  seeds: int = 1
  config: str = 'configs/studies/family.py'

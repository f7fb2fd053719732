"""The runs of a study: methods x budgets x learning rates x seeds."""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import itertools
import re

from train.config import command_line as command
from train.config.schema import Compression
from train.config.schema import Config

PROG = 'python -m train.compare'
# The keys that --learning_rates and --seeds set.
RATE_KEYS = ('optimizer.learning_rate',)
SEED_KEYS = ('seed', 'data.seed', 'compression.seed')
_KEYS = [x.name for x in dataclasses.fields(Compression)]


@dataclasses.dataclass(frozen=True)
class Entry:
  """A method with settings of its own, as in --compressors."""

  text: str
  """As it was written: 'greedylore:probes=0'."""
  method: str
  settings: tuple[tuple[str, str], ...]
  """Keys of the compression section and their values."""

  @property
  def options(self) -> tuple[str, ...]:
    """It as options of a run."""
    pairs = (('method', self.method), *self.settings)
    words = ((f'--compression.{key}', value) for key, value in pairs)
    return tuple(itertools.chain.from_iterable(words))


def entry(text: str) -> Entry:
  """Reads METHOD[:key=value ...].

  Raises:
    UsageError: if a setting is none, or its key no key of the compression
      section. Method and values are left for the configuration to check.

  Example:
    >>> entry('greedylore:probes=0').settings
    (('probes', '0'),)
  """
  method, *words = text.split(':')
  settings = []
  for word in words:
    key, equals, value = word.partition('=')
    if not equals:
      raise command.UsageError(
        f'--compressors takes METHOD:key=value, got {word!r} in {text!r}'
      )
    if key not in _KEYS[1:]:
      raise command.UsageError(
        f'--compressors {text}: there is no compression.{key} to set'
        f'{command.nearest(key, _KEYS[1:])}'
      )
    settings.append((key, value))
  return Entry(text, method, tuple(settings))


@dataclasses.dataclass(frozen=True)
class Knob:
  """The setting that was chosen for a budget."""

  name: str
  """A key of the compression section: 'rank'."""
  value: float


@dataclasses.dataclass(frozen=True)
class Choices:
  """What a command asks for; an empty tuple is the configuration's own."""

  path: str
  overrides: tuple[str, ...]
  entries: tuple[Entry, ...]
  budgets: tuple[float, ...] = ()
  learning_rates: tuple[float, ...] = ()
  seeds: tuple[int, ...] = ()

  def config(self, *options: str) -> Config:
    """The configuration with options in place of the overrides of their keys.

    Raises:
      UsageError: if an option is wrong.
    """
    return command.parse([self.path, *self.options(*options)], PROG)[0]

  def options(self, *options: str) -> tuple[str, ...]:
    """The overrides with options in place of those of the same key."""
    keys = {x.removeprefix('--') for x in options if x.startswith('--')}
    return (*command.without([*self.overrides], keys), *options)


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a study."""

  entry: str
  budget: float | None
  """Times fewer bytes than dense; None where nothing was chosen for one."""
  knob: Knob | None
  name: str
  """What the name of its folder begins with."""
  title: str
  """For people: 'powersgd rank 22, lr 0.002, seed 1'."""
  options: tuple[str, ...]
  """What it is called with, but for its folder."""
  config: Config


# An entry, a budget and what was chosen for it.
Variant = tuple[Entry, float | None, Knob | None]


def variants(
  choices: Choices, choose: Callable[[Entry, float], Knob | None]
) -> Iterator[Variant]:
  """The methods of a study, each with what it takes to stay in each budget.

  Args:
    choices: what is asked for.
    choose: from an entry and a budget to the setting; None if there is nothing
      to choose, and the method runs once whatever the budgets are. It raises
      LookupError to leave the method out.
  """
  for method in choices.entries:
    for budget in choices.budgets or (None,):
      try:
        knob = None if budget is None else choose(method, budget)
      except LookupError as missing:
        print(f'Left out: {missing.args[0]}', flush=True)
        continue
      yield method, budget if knob else None, knob
      if not knob:
        break


def runs(choices: Choices, of: list[Variant]) -> list[Run]:
  """Every variant with every learning rate and seed, in this order.

  Raises:
    UsageError: if one of them is no valid configuration.
  """
  rates, seeds = choices.learning_rates or (None,), choices.seeds or (None,)
  return [
    _run(choices, variant, rate, seed)
    for variant, rate, seed in itertools.product(of, rates, seeds)
  ]


def _run(choices, variant, rate, seed) -> Run:
  method, budget, knob = variant
  options = [*method.options]
  name, title = method.text, [method.text]
  if knob:
    options += [f'--compression.{knob.name}', f'{knob.value:g}']
    name += f'-{knob.name}{knob.value:g}'
    title[0] += f' {knob.name} {knob.value:g}'
  if rate is not None:
    for key in RATE_KEYS:
      options += [f'--{key}', f'{rate}']
    name += f'-lr{rate}'
    title.append(f'lr {rate}')
  if seed is not None:
    for key in SEED_KEYS:
      options += [f'--{key}', f'{seed}']
    name += f'-seed{seed}'
    title.append(f'seed {seed}')
  return Run(
    method.text,
    budget,
    knob,
    re.sub(r'[^\w.=+-]', '-', name),
    ', '.join(title),
    (choices.path, *choices.options(*options)),
    choices.config(*options),
  )

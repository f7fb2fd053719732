"""The runs of a study: methods x budgets x learning rates x seeds."""

from collections.abc import Callable, Iterator
import dataclasses
import itertools
import re

from train.config import command_line, exit_codes, section
from train.config.schema import Compression, Config

PROG = 'python -m train.compare'
# The keys that --learning_rates and --seeds set.
RATE_KEYS = ('optimizer.learning_rate',)
SEED_KEYS = ('seed', 'data.seed', 'compression.seed')
_KEYS = [x.name for x in dataclasses.fields(Compression)]


@dataclasses.dataclass(frozen=True)
class Entry:
  """A method with its own options, as in --compressors."""

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

  Method and values are left for the configuration to check.

  Raises:
    UsageError: if a key is not one of the compression section.

  Example:
    >>> entry('greedylore:probes=0').settings
    (('probes', '0'),)
  """
  method, *words = text.split(':')
  settings = []
  for word in words:
    key, equals, value = word.partition('=')
    if not equals:
      raise exit_codes.UsageError(
        f'--compressors takes METHOD:key=value, got {word!r} in {text!r}'
      )
    if key not in _KEYS[1:]:
      raise exit_codes.UsageError(
        f'--compressors {text}: there is no compression.{key} to set'
        f'{section.nearest(key, _KEYS[1:])}'
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
    return command_line.parse([self.path, *self.options(*options)], PROG)[0]

  def options(self, *options: str) -> tuple[str, ...]:
    """The overrides with options in place of those of the same key."""
    keys = {x.removeprefix('--') for x in options if x.startswith('--')}
    return (*command_line.without([*self.overrides], keys), *options)


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a study."""

  entry: str
  budget: float | None
  """Times fewer bytes than dense; None where nothing was chosen for one."""
  knob: Knob | None
  name: str
  """The beginning of the name of its folder."""
  title: str
  """For people: 'powersgd rank 22, lr 0.002, seed 1'."""
  options: tuple[str, ...]
  """Its command line, without its folder."""
  config: Config


# An entry, a budget and what was chosen for it.
Variant = tuple[Entry, float | None, Knob | None]


def variants(
  choices: Choices, choose: Callable[[Entry, float], Knob | None]
) -> Iterator[Variant]:
  """The methods of a study, each with the setting that meets each budget.

  `choose` returns that setting. It returns None if the method has none, which
  then runs once for all budgets, and raises LookupError to leave it out.
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
    UsageError: if one of them is not a valid configuration.
  """
  rates, seeds = choices.learning_rates or (None,), choices.seeds or (None,)
  return [
    _run(choices, variant, rate, seed)
    for variant, rate, seed in itertools.product(of, rates, seeds)
  ]


def _run(
  choices: Choices, variant: Variant, rate: float | None, seed: int | None
) -> Run:
  method, budget, knob = variant
  changes = dict[str, str]()
  name, title = method.text, [method.text]
  if knob:
    changes[f'compression.{knob.name}'] = f'{knob.value:g}'
    name += f'-{knob.name}{knob.value:g}'
    title[0] += f' {knob.name} {knob.value:g}'
  for word, value, keys in (('lr', rate, RATE_KEYS), ('seed', seed, SEED_KEYS)):
    if value is not None:
      changes |= dict.fromkeys(keys, f'{value}')
      name += f'-{word}{value}'
      title.append(f'{word} {value}')
  pairs = ((f'--{key}', value) for key, value in changes.items())
  options = (*method.options, *itertools.chain.from_iterable(pairs))
  return Run(
    entry=method.text,
    budget=budget,
    knob=knob,
    name=re.sub(r'[^\w.=+-]', '-', name),
    title=', '.join(title),
    options=(choices.path, *choices.options(*options)),
    config=choices.config(*options),
  )

"""The runs of a study: methods x budgets x learning rates x seeds."""

from collections.abc import Callable, Iterator
import dataclasses
import itertools
import re

from train.config import command_line, exit_codes, section
from train.config.schema import METHODS_OF, Compression, Config, Local

PROG = 'python -m train.compare'
# The keys that --learning_rates and --seeds set.
RATE_KEYS = ('optimizer.learning_rate',)
SEED_KEYS = ('seed', 'data.seed', 'compression.seed')
# The keys that --every and --precisions set.
EVERY_KEYS = ('local.every',)
PRECISION_KEYS = ('compression.factor_dtype',)
# The keys of an entry, also without their section: start_step is compression's.
_LOCAL_KEYS = [f'local.{x.name}' for x in dataclasses.fields(Local)]
_COMPRESSION_KEYS = [
  f'compression.{x.name}'
  for x in dataclasses.fields(Compression)
  if x.name != 'method'
]
_KEYS = {
  name: key
  for key in (*_LOCAL_KEYS, *_COMPRESSION_KEYS)
  for name in (key, key.partition('.')[2])
}
# What a run without local steps has.
_NOT_LOCAL = tuple(
  (f'local.{x.name}', f'{x.default}') for x in dataclasses.fields(Local)
)
# Methods whose messages have a type to choose.
_WITH_PRECISION = {*METHODS_OF['rank'], *METHODS_OF['density']} - {
  'tsr_adam',
  'frugal',
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """A method with its own options, as in --compressors."""

  text: str
  """As it was written: 'greedylore:probes=0'."""
  method: str
  settings: tuple[tuple[str, str], ...]
  """Keys of the configuration and their values."""
  group: str
  """The entry that this one is a candidate of, or its own text."""

  @property
  def options(self) -> tuple[str, ...]:
    """It as options of a run."""
    pairs = (('compression.method', self.method), *self.settings)
    words = ((f'--{key}', value) for key, value in pairs)
    return tuple(itertools.chain.from_iterable(words))


def entry(text: str) -> Entry:
  """Reads METHOD[:key=value ...].

  Method and values are left for the configuration to check.

  Raises:
    UsageError: if a key is not one of the sections compression and local.

  Example:
    >>> entry('powersgd:rank=8:every=10').settings
    (('compression.rank', '8'), ('local.every', '10'))
  """
  method, *words = text.split(':')
  settings = []
  for word in words:
    key, equals, value = word.partition('=')
    if not equals:
      raise exit_codes.UsageError(
        f'--compressors takes METHOD:key=value, got {word!r} in {text!r}'
      )
    if key not in _KEYS:
      raise exit_codes.UsageError(
        f'--compressors {text}: the sections compression and local have no'
        f' key {key} to set{section.nearest(key, [*_KEYS])}'
      )
    settings.append((_KEYS[key], value))
  return Entry(text, method, tuple(settings), text)


def candidates(
  of: Entry, every: tuple[int, ...], precisions: tuple[str, ...]
) -> Iterator[Entry]:
  """The entry with each of the values; what it sets itself stays.

  A value of 1 for `every` sends in every step, without local steps.

  Example:
    >>> [x.text for x in candidates(entry('powersgd'), (1, 4), ('int8',))]
    ['powersgd:every=1:factor_dtype=int8', 'powersgd:every=4:factor_dtype=int8']
  """
  own = dict(of.settings)
  if not every or own.keys() & {*EVERY_KEYS}:
    every = (0,)
  if of.method not in _WITH_PRECISION or own.keys() & {*PRECISION_KEYS}:
    precisions = ()
  for steps, precision in itertools.product(every, precisions or ('',)):
    text, settings = of.text, of.settings
    if steps:
      text += f':every={steps}'
      settings += tuple((key, f'{steps}') for key in EVERY_KEYS)
    if steps == 1:
      others = [x for x in settings if x[0] not in dict(_NOT_LOCAL)]
      settings = (*others, *_NOT_LOCAL)
    if precision:
      text += f':factor_dtype={precision}'
      settings += tuple((key, precision) for key in PRECISION_KEYS)
    yield dataclasses.replace(of, text=text, settings=settings)


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
  group: str
  """As in `Entry`; of its runs, a table marks the best at each budget."""
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
  then runs once for all budgets, and raises LookupError, saying what the method
  cannot, to leave it out.
  """
  for method in choices.entries:
    for budget in choices.budgets or (None,):
      try:
        knob = None if budget is None else choose(method, budget)
      except LookupError as missing:
        print(f'Left out: {method.text} {missing.args[0]}', flush=True)
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
    group=method.group,
    budget=budget,
    knob=knob,
    name=re.sub(r'[^\w.=+-]', '-', name),
    title=', '.join(title),
    options=(choices.path, *choices.options(*options)),
    config=choices.config(*options),
  )

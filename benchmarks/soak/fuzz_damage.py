"""The ways to damage a file."""

from collections.abc import Callable
import json
import math
import os
import pathlib
import random
import re
import shutil
from typing import Any

_INTEGERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
_NUMBERS = (
  '-1',
  '0',
  '99999999999',
  '1e999',
  '-1e999',
  'NaN',
  '0.5',
  '9' * 5000,
)
_WORDS = ('null', 'true', '"x"', '{}', '[]', '""')

Mutation = Callable[[random.Random, pathlib.Path, pathlib.Path], None]


def _of_bytes(change: Callable[[random.Random, bytearray], None]) -> Mutation:
  def mutation(
    rng: random.Random, path: pathlib.Path, outside: pathlib.Path
  ) -> None:
    content = bytearray(path.read_bytes())
    change(rng, content)
    path.write_bytes(content)

  return mutation


def _flip(rng: random.Random, content: bytearray) -> None:
  for _ in range(rng.choice((1, 1, 2, 16))):
    if content:
      content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _cut(rng: random.Random, content: bytearray) -> None:
  del content[rng.randrange(len(content) + 1) :]


def _grow(rng: random.Random, content: bytearray) -> None:
  content += rng.choice((bytes(1000), rng.randbytes(1000), bytes(content)))


def _clear(rng: random.Random, content: bytearray) -> None:
  start = rng.randrange(len(content) + 1)
  stop = min(len(content), start + rng.choice((1, 8, 100, 10**6)))
  content[start:stop] = bytes(stop - start)


def _size(rng: random.Random, content: bytearray) -> None:
  """An absurd integer, most often near the beginning or the end."""
  width = rng.choice((4, 8))
  number = rng.choice(_INTEGERS) % (1 << 8 * width)
  last = max(0, len(content) - width)
  place = rng.choice((0, min(8, last), last, rng.randrange(last + 1)))
  content[place : place + width] = number.to_bytes(
    width, rng.choice(('little', 'big'))
  )


def _number(rng: random.Random, content: bytearray) -> None:
  """Another value for a number of a text."""
  found = [*re.finditer(rb'-?\d[\d.e+-]*', bytes(content))]
  if found:
    one = rng.choice(found)
    other = rng.choice((*_NUMBERS, *_WORDS)).encode()
    content[one.start() : one.end()] = other


def _value(rng: random.Random, content: bytearray) -> None:
  """Another value somewhere in JSON, JSON lines or a header of safetensors."""
  text = bytes(content)
  size = int.from_bytes(text[:8], 'little')
  parts = text.split(b'\n') if text.count(b'\n{') else [text]
  if text[8:9] == b'{' and size <= len(text):
    parts = [text[8 : 8 + size]]
  part = rng.choice(parts)
  try:
    changed = _other_value(rng, json.loads(part))
  except (ValueError, RecursionError):
    return _number(rng, content)
  new = json.dumps(changed).encode()
  start = text.find(part)
  content[start : start + len(part)] = new
  if start == 8:
    content[:8] = len(new).to_bytes(8, 'little')


def _other_value(rng: random.Random, tree: Any) -> Any:
  """A tree of JSON in which one node, at any depth, is another one."""
  if isinstance(tree, (dict, list)) and tree and rng.random() < 0.9:
    keys = [*tree] if isinstance(tree, dict) else [*range(len(tree))]
    key = rng.choice(keys)
    if rng.random() < 0.1:
      tree.pop(key)
    elif isinstance(tree, dict) and rng.random() < 0.1:
      tree[rng.choice(('', '../x', 'a\0', *map(str, keys)))] = tree.pop(key)
    else:
      tree[key] = _other_value(rng, tree[key])
    return tree
  if isinstance(tree, (int, float)) and rng.random() < 0.7:
    near = (tree + 1, tree - 1, -tree, 2 * tree, float(tree), math.nan)
    return rng.choice((*near, *_INTEGERS, -(2**31), 10**400, 1e308))
  deep: list[Any] = []
  for _ in range(rng.choice((1, 500))):
    deep = [deep]
  others = (None, True, '', 'x', {}, [], deep, '../../x', 'a\0b', 'x' * 10**6)
  return rng.choice((*others, [0] * 10**5))


def _nest(rng: random.Random, content: bytearray) -> None:
  deep = rng.choice((b'[', b'{"a":', b'(', b'-')) * rng.choice((100, 100_000))
  if rng.random() < 0.3:
    content[:] = deep
    return
  places = [m.start() for m in re.finditer(rb'[\d"\[{]', bytes(content))]
  place = rng.choice(places) if places else 0
  content[place:place] = deep


def _escape(
  rng: random.Random, path: pathlib.Path, outside: pathlib.Path
) -> None:
  """A name that leads out of the folder, in the place of a string."""
  content = bytearray(path.read_bytes())
  names = (
    f'{outside}/escaped',
    '../' * rng.randrange(1, 9) + f'{outside.name}/escaped',
    f'../{outside.name}/sentinel',
    '/dev/zero',
    'a\0b',
    'x' * 100_000,
  )
  found = [*re.finditer(rb'"[^"\\]{1,80}"|\'[^\'\\]{1,80}\'', bytes(content))]
  name = rng.choice(names).encode()
  if found:
    one = rng.choice(found)
    content[one.start() + 1 : one.end() - 1] = name
  else:  # In a binary file: of equal length, so that sizes stay true.
    place = rng.randrange(len(content) + 1)
    content[place : place + len(name)] = name[: len(content) - place]
  path.write_bytes(content)


def _link(
  rng: random.Random, path: pathlib.Path, outside: pathlib.Path
) -> None:
  targets = (
    outside / 'sentinel',
    outside / 'copy',
    outside / 'missing',
    pathlib.Path('/dev/zero'),
    pathlib.Path('/dev/null'),
    path,
    outside,
  )
  target = rng.choice(targets)
  shutil.copy(path, outside / 'copy')
  path.unlink()
  path.symlink_to(target)


def _fifo(
  rng: random.Random, path: pathlib.Path, outside: pathlib.Path
) -> None:
  path.unlink()
  os.mkfifo(path)


def _folder(
  rng: random.Random, path: pathlib.Path, outside: pathlib.Path
) -> None:
  path.unlink()
  path.mkdir()


def _delete(
  rng: random.Random, path: pathlib.Path, outside: pathlib.Path
) -> None:
  path.unlink()


MUTATIONS: dict[str, Mutation] = {
  'flip': _of_bytes(_flip),
  'cut': _of_bytes(_cut),
  'grow': _of_bytes(_grow),
  'clear': _of_bytes(_clear),
  'size': _of_bytes(_size),
  'number': _of_bytes(_number),
  'value': _of_bytes(_value),
  'nest': _of_bytes(_nest),
  'escape': _escape,
  'link': _link,
  'fifo': _fifo,
  'folder': _folder,
  'delete': _delete,
}

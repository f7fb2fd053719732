"""Are the numbers of the README and of the site those that were recorded?

Every number with a unit has to be in a sentence below, which is filled in from
the recorded results. A changed number is in none of them.
"""

import functools
import json
import pathlib
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

import greedylore_jax as gl
from train import tasks
from train.config import command_line
from train.study import budget

ROOT = pathlib.Path(gl.__file__).parent.parent
EXPERIMENTS = ROOT / 'experiments'
CODE = re.compile(r'```.*?```', re.DOTALL)
LINK = re.compile(r'(\])\([^)]*\)')
NUMBER = re.compile(
  r'[+-]?\d[\d.,]*\s?(?:%|points|(?:held-out )?bits per byte|times\b'
  r'|s\b)'
)


def rows(path, section=''):
  """The rows of Markdown tables, as dicts by their heading."""
  text = (EXPERIMENTS / path).read_text('utf-8')
  if section:
    text = re.split(r'^##+ ', text.split(section, 1)[1], flags=re.MULTILINE)[0]
  found, heading = [], None
  for line in text.splitlines():
    cells = [cell.strip(' *') for cell in line.strip().strip('|').split('|')]
    if not line.startswith('|'):
      heading = None
    elif heading is None:
      heading = cells
    elif set(line) - set('|-: '):
      found.append(dict(zip(heading, cells, strict=True)))
  return found


def number(text):
  """The first number in a cell."""
  return float(re.search(r'-?\d[\d,]*\.?\d*', text)[0].replace(',', ''))


def percent(x):
  """A share as it is printed: +1.1 %."""
  return f'{100 * x:+.1f} %'


@functools.cache
def local(optimizer, what, when):
  """(times fewer bytes, loss over dense) of local updates."""
  section = f'{optimizer} inside, 4 workers, 1 sequence each'
  (row,) = (
    x
    for x in rows('local_updates/table.md', section)
    if x['what is sent'] == what and x['when'] == when
  )
  return number(row['times fewer bytes']), number(row['over dense']) / 100


@functools.cache
def sparse(what):
  """(times fewer bytes, per cent over dense) in the study of messages."""
  (row,) = (
    x
    for x in rows('sparse/table.md')
    if x['what is sent'].partition(', error decay')[0] == what
  )
  return row['times fewer bytes'], row['over dense'].strip('+ %')


@functools.cache
def front(workers, what, when, optimizer='AdamW'):
  """(times fewer bytes, per cent over dense) in the study of the front."""
  (row,) = (
    x
    for x in rows('front/table.md', f'{optimizer} inside, {workers} workers')
    if (x['what is sent'], x['when']) == (what, when)
  )
  return row['times fewer bytes'], row['over dense'].strip('+ %')


def until(*methods, hosts=2):
  """Seconds to dense's loss, by methods with or without rounds."""
  return [
    x['10 Mbit/s, 50 ms'].split()[0]
    for method in methods
    for x in rows('time_on_links/table.md', f'{hosts} hosts')
    if x[''] in (method, f'{method}, every 30 steps')
  ]


@functools.cache
def over_dense(study, what):
  """Per cent over dense of a message that is sent in every step of AdamW."""
  (row,) = (
    x
    for x in rows(f'{study}/table.md', 'AdamW inside')
    if (x['what is sent'], x['when']) == (what, 'every step')
  )
  return row['over dense'].strip('+ %')


@functools.cache
def family(method, budget):
  """The loss over dense of a method at a budget of bytes."""
  (row,) = (
    x
    for x in rows('family/table.md')
    if (x['method'], x['budget']) == (method, budget)
  )
  return number(row['over dense']) / 100


@functools.cache
def over_seeds(name):
  """The loss over dense at 1e-3, of the means of three seeds."""
  lines = (EXPERIMENTS / 'family/results.jsonl').read_text('utf-8')
  runs = [json.loads(line) for line in lines.splitlines()]

  def mean(entry):
    losses = [
      run['summary']['final_eval_loss']
      for run in runs
      if run['entry'] == entry
      and run['learning_rate'] == 1e-3
      and run['budget'] in (None, 10.0)
    ]
    assert len(losses) == 3
    return sum(losses) / 3

  return mean(name) / mean('dense') - 1


@functools.cache
def quickstart(method, column):
  """A number of the quickstart."""
  (row, *_) = (
    x for x in rows('quickstart/README.md') if x.get('method') == method
  )
  return number(row[column])


@functools.cache
def links(method, link):
  """The share of the time that a method computes on a link."""
  (row, *_) = (
    x for x in rows('links/table.md') if next(iter(x.values())) == method
  )
  return float(re.search(r'\((.*?)%\)', row[link])[1])


def gpu(method):
  """How much longer a step takes on a GPU."""
  (row, *_) = (
    x
    for x in rows('one_worker/README.md', '## On a GPU')
    if method in x.values()
  )
  return number(row['ratio']) - 1


def fed_back():
  """How much higher the loss is without error feedback, from and to."""
  over = {
    x['method']: number(x['held-out loss (seeds)'])
    for x in rows('ablation_error_feedback/table.md')
  }
  return sorted(
    over[f'greedylore:start_step={n}:error_feedback=False']
    / over[f'greedylore:start_step={n}']
    - 1
    for n in (0, 150)
  )


def cards():
  """How much more than the plan network cards count, from and to."""
  text = (EXPERIMENTS / 'wire/README.md').read_text('utf-8')
  table = text.split('## Results')[1].split('## Reading')[0]
  found = [float(x) for x in re.findall(r'\+(\d+\.\d+) %', table)]
  return min(found), max(found)


def dense_seconds(gigabits):
  """A dense all-reduce of 350M float32 gradients in a ring of 8 workers."""
  return 2 * 7 / 8 * 4 * 350e6 / (gigabits * 1.25e8)


INT8 = 'PowerSGD r = 22 int8, 45 dense steps first', 'every step'
INT4 = 'PowerSGD r = 22 int4, 45 dense steps first', 'every step'
FOUR_BITS = 'every entry in 4 bits', 'H = 4, SGD 1'
TWO_BITS = 'every entry in 2 bits', 'H = 10, SGD 1'
LOW_4 = 'PowerSGD r = 22 int4', 'H = 4, SGD 1'
LOW_10 = 'PowerSGD r = 22 int4', 'H = 10, SGD 1'


def choices():
  """Rows of docs/choosing.md: bytes, and the loss with AdamW and Muon."""
  for kind in (INT8, INT4, FOUR_BITS, LOW_4, TWO_BITS, LOW_10):
    (times, adamw), (_, muon) = local('AdamW', *kind), local('Muon', *kind)
    yield (
      rf'\| {times:.0f} \|[^|]*\|[^|]*\|'
      rf' {re.escape(percent(adamw))}, {re.escape(percent(muon))} \|'
    )


def readme():
  """What the README says, as regular expressions."""
  low, high = cards()
  yield rf'count {low:.1f} to {high:.0f} % more'
  yield (
    rf'sends {quickstart("GreedyLore", "times less"):.1f} times fewer bytes'
    rf' than dense AdamW, and ends at about'
    rf' {quickstart("GreedyLore", "bits per byte"):.1f} held-out bits per byte,'
    rf' where dense AdamW reaches {quickstart("dense", "bits per byte"):.2f}'
  )
  sent = {100: None, 10: INT8, 1: FOUR_BITS, 0.1: TWO_BITS}
  for gigabits, kind in sent.items():
    link = f'{gigabits} Gbit/s' if gigabits >= 1 else '100 Mbit/s'
    seconds = f'{dense_seconds(gigabits):#.3g}'.rstrip('.')
    seconds = f'{dense_seconds(gigabits):.2f}' if gigabits > 1 else seconds
    row = rf'\| {link} \| {seconds} s \| [^|]* \|'
    yield row + (of_both(kind) if kind else '')
  yield rf'every=10` \|{of_both(LOW_10)}'


def of_both(kind):
  """The end of a row: times fewer bytes, and loss with AdamW and Muon."""
  (times, adamw), (_, muon) = local('AdamW', *kind), local('Muon', *kind)
  losses = rf'{re.escape(percent(adamw))} \| {re.escape(percent(muon))}'
  return rf' {times:.0f} \| {losses} \|'


class Compared(NamedTuple):
  """Entries and directions at about the same bytes: per cent over dense."""

  times: str
  entries: str
  directions_times: str
  directions: str


def rotated():
  """Per cent over dense of AdamW, every entry in 2 bits, every ten steps."""
  (row,) = (
    x
    for x in rows('few_bits/README.md', '## Results')
    if (x.get('inner'), x.get('when')) == ('AdamW', 'H = 10')
  )
  return number(row['over dense'])


def directions_and_entries():
  """ChunkTopK and PowerSGD in every step, and in rounds of 4 steps."""
  pairs = (
    ('ChunkTopK, 148 of a block in 8 bits', 'PowerSGD r = 29 int4'),
    ('ChunkTopK, 175 of a block in 2 bits', 'PowerSGD r = 22 int4'),
  )
  return [Compared(*sparse(a), *sparse(b)) for a, b in pairs]


def choosing():
  """What docs/choosing.md says."""
  yield from choices()
  yield from in_three_sentences()
  yield (
    rf'PowerSGD added {100 * gpu("PowerSGD"):.0f} % to a step and GreedyLore'
    rf' {100 * gpu("GreedyLore"):.0f} %'
  )
  link = '10 Mbit/s, 50 ms'
  yield (
    rf'at 10 Mbit/s and 50 ms, 8-bit PowerSGD computed'
    rf' {links("PowerSGD int8, every step", link):.0f} % of the time when it'
    rf' sent in every step,'
    rf' {links("PowerSGD int8, every 30 steps", link):.0f} % in rounds of 30'
    rf' steps, and {links("PowerSGD int8, every 100 steps", link):.0f} % in'
    r' rounds of 100'
  )
  ours = until('every entry in 2 bits', 'PowerSGD int4')
  theirs = until(
    'PyTorch PostLocalSGDOptimizer', 'PyTorch powerSGD_hook', 'PyTorch DDP'
  )
  yield (
    rf'in 2 bits had the loss of 420 dense steps after {ours[0]} s, and rounds'
    rf' of `PowerSGD` in 4 bits after {ours[1]} s'
  )
  four = until(
    'every entry in 2 bits',
    'PyTorch PostLocalSGDOptimizer',
    'PyTorch powerSGD_hook',
    'PyTorch DDP',
    hosts=4,
  )
  yield (
    rf'With four hosts, rounds in 2 bits took {four[0]} s, and the others'
    rf' {four[1]} s, {four[2]} s and {four[3]} s'
  )
  yield (
    rf'`PostLocalSGDOptimizer` took {theirs[0]} s, its `powerSGD_hook`'
    rf' {theirs[1]} s, and its DDP {theirs[2]} s'
  )
  yield (
    rf'rank 22 ended {100 * over_seeds("powersgd:factor_dtype=int8"):.1f} %'
    rf' above dense, and float32 factors of rank 5 ended'
    rf' {100 * over_seeds("powersgd"):.1f} % above it'
  )
  in_steps, in_rounds = directions_and_entries()
  yield (
    rf'At {in_steps.times} times fewer bytes and before AdamW, `PowerSGD` in 4'
    rf' bits ended {in_steps.directions} % above dense, and `ChunkTopK`'
    rf' {in_steps.entries} %'
  )
  yield (
    r"In that study's rounds of 4 steps, at about 100 times fewer bytes,"
    rf' entries ended'
    rf' {in_rounds.entries} % above dense and directions'
    rf' {in_rounds.directions} %'
  )
  times, _ = local('AdamW', *TWO_BITS)
  yield r'The rows at 10 and 15 times begin with 45 dense steps'
  yield (
    rf'with rotation, 2 bits ended {rotated():.1f} % above dense with AdamW at'
    rf' {times:.0f} times'
  )
  yield r'about 3 % of the run'  # 45 of 1,500 steps in the study.
  times, in_steps = front(16, 'PowerSGD r = 5 int4', 'every step')
  _, in_rounds = front(16, 'PowerSGD r = 22 int4', 'H = 4, SGD 1')
  yield (
    rf'PowerSGD in every step ended {in_steps} % above dense at {times} times'
    rf' fewer bytes, and in rounds of 4 steps {in_rounds} %'
  )
  yield r'Differences below 1 % mean little'
  yield rf'LLaMA-60M with {sixty():.1f} times fewer bytes'
  yield r'Up to about 15 times fewer bytes'  # Between INT4 and FOUR_BITS.
  yield r'more than 10 times fewer bytes'  # Where a dense start begins to cost.
  yield r'columns are links of 100, 10, 1 and 0\.1 Gbit/s'
  yield r'a rank 4 times lower'  # 32 bits in the place of 8.


METHODS = 'PastSketches', 'PowerSGD', 'GreedyLore'


def of_past_sketches():
  """What docs/methods says of it."""
  refreshed = 'dense refresh every 100'
  for row, *messages in (
    ('4 | float32', 'r = 24', 'r = 20', f'r = 28, {refreshed}'),
    ('4 | 8 bits', 'r = 95 int8', 'r = 78 int8', f'r = 121 int8, {refreshed}'),
    ('10 | float32', 'r = 9', 'r = 8', f'r = 9, {refreshed}'),
    ('10 | 8 bits', 'r = 38 int8', 'r = 31 int8', f'r = 46 int8, {refreshed}'),
  ):
    losses = [
      over_dense('greedylore', f'{method} {rank}').replace('-0.0', '0.0')
      for method, rank in zip(METHODS, messages, strict=True)
    ]
    cells = [rf'[+]?{loss} %' for loss in losses]
    yield r' \| '.join([re.escape(row), *cells])
  yield r'Seeds of one method differ by 2 to 4 %'
  ours = over_dense('greedylore', 'PastSketches r = 38 int8')
  yield rf'ended {ours} % above dense in the same comparison'


def in_three_sentences():
  """What docs/choosing.md begins with."""
  times, in_8_bits = front(4, 'PowerSGD r = 31 int8', 'every step')
  more, in_4_bits = front(4, 'PowerSGD r = 20 int4', 'every step')
  yield r'To send up to 30 times less'
  _, longer_runs = local('AdamW', *FOUR_BITS)
  yield (
    r'For 30 times in longer runs, use `Quantize\(4\)` every fourth step'
    rf' \({100 * longer_runs:.1f} % after 1,500 steps\)'
  )
  yield r'every step was still ahead at 30 times'
  yield r'To send about 100 times less'
  yield (
    rf'in 8 bits \({times} times fewer bytes, {in_8_bits} % above dense\) or in'
    rf' 4 bits \({number(more):.0f} times, {in_4_bits} %\)'
  )
  _, adamw = front(4, 'PowerSGD r = 22 int4', 'H = 4, SGD 1, fragments 4')
  _, muon = front(
    4, 'every entry in 2 bits', 'H = 7, SGD 1, fragments 4', 'Muon'
  )
  yield (
    rf'in 4 fragments \({adamw} % above dense\), with Muon, seven steps, twice'
    rf' the learning rate and `Quantize\(2\)` in 4 fragments \({muon} %\)'
  )
  ours, ddp, post_local = (
    number(x)
    for x in until(
      'every entry in 2 bits', 'PyTorch DDP', 'PyTorch PostLocalSGDOptimizer'
    )
  )
  yield (
    rf"about {ddp / ours:.0f} times sooner than PyTorch's DDP, and"
    rf' {post_local / ours:.1f} times sooner than its local averaging'
  )
  (longer,) = (
    x['over dense'].strip('+ ')
    for x in rows('few_bits/README.md', '## Results')
    if (x.get('inner'), x.get('when')) == ('Muon', 'H = 7, 4 fragments')
  )
  yield rf'after 1,500 steps, the run with Muon above ended {longer} above'
  of_english = {
    x['what is sent']: x['over dense'].strip('+ %')
    for x in rows('front_english/table.md', 'AdamW inside')
  }
  yield (
    rf'`PowerSGD` in every step ended {of_english["PowerSGD r = 40 int8"]} %'
    rf' \(8 bits\) and {of_english["PowerSGD r = 25 int4"]} % \(4 bits\) above'
    rf' dense, and rounds with AdamW, as above,'
    rf' {of_english["PowerSGD r = 30 int4"]} %'
  )


def entries():
  """What docs/methods/sparse.md says."""
  in_steps, in_rounds = directions_and_entries()
  _, threshold = sparse('ThresholdTopK density 0.011')
  yield (
    rf'at {in_steps.times} times fewer bytes, `ChunkTopK` ended'
    rf' {in_steps.entries} % above dense and `ThresholdTopK` {threshold} %, but'
    rf' `PowerSGD` in 4 bits {in_steps.directions} %'
  )
  yield (
    rf'SparseLoCo ended {in_rounds.entries} % above dense at'
    rf' {float(in_rounds.times):.0f} times fewer bytes, and `PowerSGD` in 4'
    rf' bits {in_rounds.directions} % at'
    rf' {float(in_rounds.directions_times):.0f}'
  )
  times, sketch = sparse('CountSketch density 0.012')
  _, amsgrad = sparse('SketchedAMSGrad density 0.012')
  yield (
    rf'At {float(times):.0f} times fewer bytes and before AdamW, it ended'
    rf' {sketch} % above dense, `sketched_amsgrad` {amsgrad} % and `ChunkTopK`'
    rf' {in_steps.entries} %'
  )
  times, frugal = sparse('FRUGAL density 0.016')
  yield rf'At {times} times fewer bytes it ended {frugal} % above dense AdamW'
  split, four_bits = (
    saved(method, 8)
    for method in (
      gl.SplitColumns(density=0.25, compressor=gl.Quantize(8)),
      gl.Quantize(4),
    )
  )
  yield (
    rf'with 8 workers this plan sends {split:.1f} times fewer bytes than dense'
    rf' averaging, and `Quantize\(4\)` {four_bits:.1f} times'
  )


def saved(method, workers):
  """Times fewer bytes on the matrix of the pages of methods."""
  params = {'w': jax.ShapeDtypeStruct((1024, 4096), jnp.float32)}
  plan = gl.plan(method, params, num_workers=workers)
  return plan.dense_bytes / plan.bytes_per_step


def rounds():
  """Rows of docs/local_updates.md: bytes, and the loss with an optimizer."""
  for optimizer, kind in (
    ('AdamW', INT8),
    ('Muon', FOUR_BITS),
    ('AdamW', FOUR_BITS),
    ('AdamW', LOW_4),
    ('Muon', TWO_BITS),
    ('AdamW', LOW_10),
  ):
    times, over = local(optimizer, *kind)
    yield (
      rf'\| {times:.0f} \| {optimizer} \|[^|]*\|[^|]*\|'
      rf' {re.escape(percent(over))} \|'
    )
  yield r'Up to about 15 times fewer bytes'


def sixty():
  """Times fewer bytes of LLaMA-60M with top-k for embedding and head."""
  return max(
    number(x['times fewer'])
    for x in rows('llama_60m/table.md')
    if 'top_k' in x['method']
  )


def methods():
  """What the pages of docs/methods say."""
  powersgd = over_seeds('powersgd')
  yield (
    rf'{100 * over_seeds("powersgd:factor_dtype=int8"):.1f} % above dense at 10'
    rf' times fewer bytes \(mean of three seeds\), where float32 factors of'
    rf' lower rank ended {100 * powersgd:.1f} % above it'
  )
  finder = over_seeds('range_finder')
  yield (
    rf'by {100 * (finder - powersgd):.1f} points at 10 times fewer bytes'
    rf' \({100 * powersgd:.1f} and {100 * finder:.1f} % above dense'
  )
  yield (
    rf'At 4 times fewer bytes `tsr_adam` ended'
    rf' {100 * family("tsr_adam:start_step=0", "4x"):.1f} % above dense,'
    rf' without a dense start; at 10 times'
    rf' {100 * family("tsr_adam:start_step=0", "10x"):.1f} %'
  )
  yield (
    rf'\(\{percent(family("fixed_subspace", "4x")).removesuffix(" %")} and'
    rf' \{percent(family("greedylore", "4x"))} at 4 times fewer bytes\); random'
    rf' directions ended {100 * family("random_subspace", "4x"):.1f} % above'
  )
  yield (
    rf'At 4 times fewer bytes it ended {100 * family("random_k", "4x"):.1f} %'
    rf' above dense, at 10 times {100 * family("random_k", "10x"):.1f} %'
  )
  yield (
    rf'At 10 times fewer bytes and 4 workers it ended'
    rf' {100 * family("sign", ""):.1f} % above dense'
  )
  yield from entries()
  coarse, fine, powersgd = (
    over_dense('greedylore', what)
    for what in (
      'GreedyLore r = 46 int8, dense refresh every 100',
      'GreedyLore r = 9, dense refresh every 100',
      'PowerSGD r = 31 int8',
    )
  )
  yield (
    rf'at 10 times fewer bytes, GreedyLore in 8 bits ended {coarse} % above'
    rf' dense, where float32 factors ended {fine} % above it, and PowerSGD in 8'
    rf' bits {powersgd} %'
  )
  yield from of_past_sketches()
  yield rf'LLaMA-60M sent {sixty():.1f} times fewer bytes'
  yield r'With 6 % of the tokens'
  times, _ = local('Muon', *FOUR_BITS)
  many, over = local('Muon', *TWO_BITS)
  yield (
    rf'reached the loss of dense averaging at {times:.0f} times fewer bytes,'
    rf' and every tenth step in 2 bits ended {100 * over:.1f} % above it at'
    rf' {many:.0f} times'
  )
  yield r'ended about four times as far behind dense'
  yield r'at 4 times \(solid\) and 10 times \(dashed\) fewer bytes'
  yield r'N workers receive N times as much'


def others():
  """What the remaining pages say."""
  low, high = cards()
  yield rf'Network cards count {low:.1f} to {high:.0f} % more'
  low, high = fed_back()
  yield rf'the loss was {100 * low:.1f} to {100 * high:.1f} % higher'
  yield rf'From 4 to 2 workers that cost {elastic():.1f} % of the loss'


def elastic():
  """What a change from 4 to 2 workers cost after 200 steps, in per cent."""
  lines = (EXPERIMENTS / 'elastic_local/results.jsonl').read_text('utf-8')
  runs = [json.loads(line) for line in lines.splitlines()]
  end = {
    (run['seed'], run['resumed']): run['eval_loss']['600']
    for run in runs
    if run['begun'] == 4
  }
  return 100 * max(end[i, 2] / end[i, None] - 1 for i in (0, 1))


PAGES = {
  'README.md': readme,
  'docs/choosing.md': choosing,
  'docs/local_updates.md': rounds,
  **{
    f'docs/methods/{path.name}': methods
    for path in sorted((ROOT / 'docs/methods').glob('*.md'))
  },
  'docs/overview.md': others,
  'docs/how_to/checkpoints.md': others,
}


def prose(path):
  """The text of a page in one line, without programs and targets of links."""
  text = CODE.sub('', (ROOT / path).read_text('utf-8'))
  return ' '.join(LINK.sub(r'\1', text).split())


def unknown(text, sentences):
  """The numbers of a text that are in none of the sentences."""
  said = [
    found.span()
    for sentence in sentences
    for found in re.finditer(sentence, text)
  ]
  return [
    text[max(found.start() - 60, 0) : found.end() + 60]
    for found in NUMBER.finditer(text)
    if not any(a <= found.start() < b for a, b in said)
  ]


@pytest.mark.parametrize('path', PAGES)
def test_numbers_are_those_that_were_recorded(path):
  wrong = unknown(prose(path), PAGES[path]())
  assert not wrong, f'{path}: this is not what was recorded: {wrong[0]}'


@pytest.mark.parametrize('path', PAGES)
def test_a_changed_number_is_found(path):
  text, sentences = prose(path), [*PAGES[path]()]
  for found in NUMBER.finditer(text):
    i = found.start() + re.search(r'\d', found[0]).start()
    changed = text[:i] + str((int(text[i]) + 1) % 10) + text[i + 1 :]
    assert unknown(changed, sentences), f'{path}: {found[0]} is not checked'


@pytest.mark.parametrize(
  'sentences', [*dict.fromkeys(PAGES.values())], ids=lambda f: f.__name__
)
def test_every_sentence_is_on_a_page(sentences):
  """So that a sentence that is rewritten does not lose its check."""
  text = ' '.join(prose(p) for p, own in PAGES.items() if own is sentences)
  for sentence in sentences():
    assert re.search(sentence, text), f'no page says {sentence!r}'


def test_what_the_quickstart_proposes_sends_as_little_as_it_says():
  text = (ROOT / 'Makefile').read_text('utf-8')
  said = re.search(
    r"send (\d+) times less.*?ARGS=\"(.*?)\"'\n", text, re.DOTALL
  )
  words = said[2].replace("' \\\n", ' ').replace("'", ' ').split()
  config, _ = command_line.parse(['configs/quickstart.py', *words], '')
  times = budget.times_fewer(config, tasks.load(config))
  assert times == pytest.approx(int(said[1]), rel=0.02)


@pytest.mark.parametrize(
  'study', ['few_bits', 'front', 'front_english', 'links', 'time_on_links']
)
def test_the_tables_of_a_study_have_the_numbers_of_its_report(study):
  """Losses over dense, and seconds with what stands in parentheses."""
  told = re.compile(r'[+-][\d.]+ ?%|[\d,.]+ \([\d.]+%?\)( \(p\))?')

  def cells(text):
    return {
      cell.strip(' *')
      for line in text.splitlines()
      if line.startswith('|')
      for cell in line.split('|')
      if told.fullmatch(cell.strip(' *'))
    }

  folder = EXPERIMENTS / study
  said = cells((folder / 'README.md').read_text('utf-8'))
  known = cells((folder / 'table.md').read_text('utf-8'))
  if (rates := folder / 'rates.md').exists():
    known |= {*re.findall(r'[+-][\d.]+ %', rates.read_text('utf-8'))}
  assert said and not said - known

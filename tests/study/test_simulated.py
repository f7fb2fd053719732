"""Are runs on one device, many at a time, the trainer's own runs?"""

import dataclasses
import json
import math
import typing

import pytest

from experiments.simulated import front, program, report, text
from experiments.simulated import rows as rows_lib
import runs
from train.config import schema
from train.config.machines import Mesh
from train.config.schema import Compression, Config, Local, Optimizer

LOW_RANK = Compression('powersgd', rank=2, error_decay=0.9)
RATE = 2e-3


@pytest.mark.parametrize(
  'changes',
  [
    {'compression': Compression('dense')},
    pytest.param(
      {
        'compression': LOW_RANK,
        'local': Local(every=3, start_step=1),
        'optimizer': Optimizer('muon', RATE),
      },
      marks=pytest.mark.slow,
    ),
    pytest.param(
      {
        'compression': Compression(
          'chunk_top_k', chunk=8, keep=6, bits=2, error_decay=0.95
        ),
        'local': Local(every=3),
      },
      marks=pytest.mark.slow,
    ),
    pytest.param(
      {'compression': Compression('threshold_top_k', update_interval=3)},
      marks=pytest.mark.slow,
    ),
    pytest.param(
      {'compression': LOW_RANK, 'local': Local(every=2, qsr_alpha=4e-3)},
      marks=pytest.mark.slow,
    ),
    pytest.param(
      {
        'compression': LOW_RANK,
        'local': Local(every=3, fragments=2, delay=1, average_moments=2),
      },
      marks=pytest.mark.slow,
    ),
    pytest.param(
      {
        'compression': Compression('dense'),
        'local': Local(every=4, selsync_threshold=0.05),
      },
      marks=pytest.mark.slow,
    ),
  ],
  ids=['dense', 'rounds', 'chunks', 'threshold', 'qsr', 'fragments', 'selsync'],
)
def test_a_lane_is_the_trainers_run(tmp_path, changes):
  config = runs.settings(tmp_path, optimizer=Optimizer(learning_rate=RATE))
  config = dataclasses.replace(config, **changes)
  data = text.load(config.data, None)
  lanes = [
    program.Lane(rate, seed) for seed in (0, 1) for rate in (RATE / 2, RATE)
  ]
  found = program.run(config, data, lanes).outcomes
  assert sorted(x.lane for x in found) == sorted(lanes)
  (lane,) = (x for x in found if x.lane == program.Lane(RATE, 1))
  config = dataclasses.replace(
    config, seed=1, data=dataclasses.replace(config.data, seed=1)
  )
  summary, params = runs.run(config, tmp_path / 'work')
  runs.assert_close(lane.params, params)
  lines = [x for x in runs.lines_of(tmp_path / 'work') if 'eval_loss' in x]
  assert [x for x, _ in lane.curve] == [x['step'] for x in lines] == [4, 8]
  for (_, loss), line in zip(lane.curve, lines, strict=True):
    assert loss == pytest.approx(line['eval_loss'], rel=1e-4)
  assert lane.times_fewer == pytest.approx(summary['compression'])


def test_lanes_share_a_branch(tmp_path):
  """Local steps do not pay for rounds."""
  config = runs.settings(
    tmp_path, compression=Compression('dense'), local=Local(every=3)
  )
  data = text.load(config.data, None)
  lanes = [program.Lane(rate, 0) for rate in (1e-3, 2e-3)]
  compiled = program.Program(config, data, lanes).train
  assert ' conditional(' in compiled.as_text()


def test_a_row_is_compared_with_the_same_seeds_of_dense():
  common = {'config': 'configs/studies/family.py', 'rate': 1e-3}
  dense = common | {'overrides': '--compression.method dense', 'times_fewer': 1}
  sign = common | {'overrides': '--compression.method sign', 'times_fewer': 30}
  rows = rows_lib.rows_of(
    [
      dense | {'seed': 0, 'loss': 2.0},
      dense | {'seed': 1, 'loss': 1.0},
      sign | {'seed': 1, 'loss': 1.1},
      sign | {'seed': 2, 'loss': 9.0},
    ]
  )
  (group,) = rows_lib.grouped(rows)
  (row,) = (x for x in group.rows if x is not group.dense)
  assert group.over_dense(row.losses) == pytest.approx(10)
  assert math.isnan(group.over_dense({2: 9.0}))


def test_all_rates_of_a_cell_are_told():
  run = {'config': 'configs/studies/family.py', 'times_fewer': 1}
  dense = run | {'overrides': '--compression.method dense'}
  losses = {(1e-3, 0): 2.0, (1e-3, 1): 3.0, (2e-3, 0): 1.5, (5e-4, 0): None}
  rows = rows_lib.rows_of(
    dense | {'rate': rate, 'seed': seed, 'loss': loss}
    for (rate, seed), loss in losses.items()
  )
  assert rows[0].rate == 1e-3 and not rows[0].at_end
  *_, line = report.rates_table(rows_lib.grouped(rows)).strip().splitlines()
  assert line == (
    '| dense | every step | diverged | 2.0000 (+0.0 %) | 1.5000 (-25.0 %) |'
  )
  one_rate = [dataclasses.replace(rows[0], of_rates={1e-3: 2.0})]
  assert not report.rates_table(rows_lib.grouped(one_rate))


def test_a_front_has_what_no_run_with_as_few_bytes_is_ahead_of():
  run = {'config': 'configs/studies/family.py', 'rate': 1e-3, 'seed': 0}
  found = {1: 2.0, 10: 2.1, 10.1: 2.05, 30: 2.04, 100: 3.0, 101: 9.0, 300: 4.0}
  words = dict(zip(found, ('dense', 'sign', *'12345'), strict=True))
  method = lambda x: f'powersgd --compression.rank {x}' if len(x) == 1 else x
  rows = rows_lib.rows_of(
    run
    | {
      'overrides': f'--compression.method {method(words[times])}',
      'times_fewer': times,
      'loss': loss,
    }
    for times, loss in found.items()
  )
  (group,) = rows_lib.grouped(rows)
  assert [x.times_fewer for x in front.of(group)] == [1, 30, 100, 300]


def test_the_gain_kept_is_over_the_seeds_that_all_have():
  row = lambda workers, times_fewer, losses: rows_lib.Row(
    Config(mesh=Mesh(replica=workers)), times_fewer, 1e-3, losses, {}
  )
  dense, alone = row(4, 1, {0: 1.0, 1: 5.0}), row(1, None, {0: 2.0, 1: 6.0})
  group = rows_lib.Group(dense.setting, [dense], dense, alone)
  assert group.kept({0: 1.25}) == pytest.approx(75)
  assert math.isnan(group.kept({2: 1.0}))
  alone = row(1, None, {0: 2.0})
  group = rows_lib.Group(dense.setting, [dense], dense, alone)
  assert group.kept(dense.losses) == pytest.approx(100)


def test_every_method_has_a_row_and_a_mark(tmp_path):
  run = {
    'config': 'configs/studies/family.py',
    'rate': 1e-3,
    'seed': 0,
    'loss': 2.0,
  }
  methods = [*typing.get_args(schema.MatrixMethod), *schema.OPTIMIZERS]
  lines = [
    run
    | {
      'overrides': f'--compression.method {method} --local.every 4',
      'times_fewer': 1500 + i,
    }
    for i, method in enumerate(methods)
    if method == 'lordo' or method not in schema.OPTIMIZERS
  ] + [
    run | {'overrides': f'--compression.method {method}', 'times_fewer': 1 + i}
    for i, method in enumerate(['dense', *schema.OPTIMIZERS])
    if method != 'lordo'
  ]
  results = '\n'.join(map(json.dumps, lines))
  (tmp_path / 'results.jsonl').write_text(results, encoding='utf-8')
  report.main(str(tmp_path))
  table = (tmp_path / 'table.md').read_text(encoding='utf-8')
  assert '| 1 | dense | every step |' in table
  assert '| 1,500 | dense | H = 4, SGD 1 |' in table
  assert 'LoRDO r = 16' in table and '| signs' in table
  assert table.count('| 0.001 |') == len(lines)
  assert (tmp_path / 'compare.png').stat().st_size > 10_000


def test_a_rate_with_more_seeds_comes_before_a_better_one():
  run = {
    'config': 'configs/studies/family.py',
    'overrides': '--compression.method dense',
    'times_fewer': 1,
  }
  (row,) = rows_lib.rows_of(
    [
      run | {'rate': 1e-3, 'seed': 0, 'loss': 1.0},
      *(run | {'rate': 2e-3, 'seed': i, 'loss': 2.0} for i in range(3)),
      *(run | {'rate': 4e-3, 'seed': i, 'loss': 3.0} for i in range(3)),
    ]
  )
  assert row.rate == 2e-3 and [*row.losses] == [0, 1, 2]

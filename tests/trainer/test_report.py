"""Does the page of a run show what was measured, whatever its texts are?"""

import math
import types

import jax.numpy as jnp
import pytest

import greedylore_jax as gl
import pages
from train.config.schema import Compression, Config, Data
from train.page import chart, document
from train.run import build, checkpoint, metrics, report

EVIL = '<script>alert("1")</script>&\'</style><!--'
METHOD = gl.GreedyLore(2, update_interval=4)
PARAMS = {'blocks': [{'query': jnp.ones((16, 24))}] * 2, 'norm': jnp.ones(16)}


def job(text='texts: 100 tokens', workers=4):
  """A run as it was before its first step, without anything compiled."""
  plan = gl.plan(METHOD, PARAMS, num_workers=workers, start_step=2)
  return build.Job(
    task=types.SimpleNamespace(introduction=text, loss_unit='nats'),
    fresh=checkpoint.Snapshot(0, PARAMS, None, checkpoint.Progress()),
    step=None,
    evaluate=None,
    place=None,
    schedule=None,
    plan=plan,
    traffic=types.SimpleNamespace(describe=lambda: 'Exactly this.'),
    diagnosed=True,
    workers=workers,
  )


def journal(workdir, steps=8, sent=100, loss=lambda step: 5 / step):
  """Metrics of every second step and evaluations of every fourth."""
  of = metrics.Metrics(workdir, 0, writes=False)
  for step in range(2, steps + 1, 2):
    both = {'bytes_sent': sent * step, 'dense_bytes': 4 * sent * step}
    of.write(
      step,
      loss=loss(step),
      seconds=step / 2,
      **both,
      captured_energy=0.5,
      error_to_gradient=1.25,
      **{f'captured_energy/blocks/{i}/query': 0.25 * (i + 1) for i in (0, 1)},
    )
    if step % 4 == 0:
      of.write(step, eval_loss=loss(step), eval_accuracy=0.75, **both)
  return of


def render(of, config=None, job=job(), step=8, sent=100):  # noqa: B008
  progress = checkpoint.Progress(
    bytes_sent=sent * step, dense_bytes=4 * sent * step
  )
  now = checkpoint.Snapshot(step, None, None, progress)
  return report.render(config or Config(steps=8), job, now, of)


def test_the_page_shows_result_curves_bytes_plan_and_configuration(tmp_path):
  config = Config(steps=8, compression=Compression(rank=3))
  root = pages.parse(render(journal(tmp_path / 'mine'), config))
  assert root.find('head/title').text == 'mine'
  found = pages.sections(root)
  assert list(found) == [
    'Result',
    'Loss',
    'What the compression keeps',
    'Bytes per leaf',
    'Plan',
    'Configuration',
  ]
  result = pages.text_of(found['Result'])
  assert '8 steps took the training loss from 2.500 to 0.625' in result
  assert '4.00x as much' in result and 'held-out accuracy 0.750' in result
  assert pages.charts(found['Loss']) == [
    'loss [nats] against step',
    'loss [nats] against sent per worker [MB]',
    'loss [nats] against training time [s]',
  ]
  keeps = found['What the compression keeps']
  assert pages.charts(keeps) == [
    'captured energy [share of 1] against step',
    'norm of error / norm of gradient against step',
  ]
  names = [x.text for x in keeps.iter('title')]
  assert names[:3] == ['blocks/0/query', 'blocks/1/query', 'all leaves']
  cells = [x.text for x in keeps.iter('td')]
  assert cells[:2] == ['blocks/0/query', '0.250']
  assert str(job().plan) == found['Plan'].find('pre').text
  key, value = list(found['Configuration'].iter('td'))[2:4]
  assert (key.text, value.text) == ('compression.rank', '3')


def test_bytes_per_leaf_are_those_of_the_plan(tmp_path):
  plan = job().plan
  root = pages.parse(render(journal(tmp_path)))
  table = pages.sections(root)['Bytes per leaf'].find('.//table')
  rows = [
    [pages.text_of(x) for x in row.iter('td')] for row in table.iter('tr')
  ]
  head = [x.text for x in table.iter('th')]
  shown = [dict(zip(head, row, strict=True)) for row in rows[1:]]
  assert [x['leaf'] for x in shown] == [x.path for x in plan.leaves]
  average = 0
  for leaf, row in zip(plan.leaves, shown, strict=True):
    assert float(row['dense [kB]']) == round(leaf.dense_bytes / 1e3, 2)
    for phase, sent in leaf.sent.items():
      assert float(row[f'{phase} [kB]']) == round(sent / 1e3, 2)
    average += float(row['average [kB]'])
  assert average == pytest.approx(plan.bytes_per_step / 1e3, abs=0.02)


def test_texts_of_people_are_only_texts(tmp_path):
  config = Config(steps=8, data=Data(source='files', files=(EVIL,)))
  page = render(journal(tmp_path / EVIL.replace('/', '_')), config, job(EVIL))
  root = pages.parse(page)  # Which refuses scripts.
  assert EVIL in ''.join(root.find('.//header').itertext())
  assert root.find('head/title').text == EVIL.replace('/', '_')
  values = ''.join(pages.sections(root)['Configuration'].itertext())
  assert 'alert(\\"1\\")</script>' in values, 'as JSON, which escapes quotes'
  assert page.count('<style>') == 1


@pytest.mark.parametrize('loss', [math.nan, math.inf, 3.0])
def test_a_run_without_a_finite_or_another_loss_has_a_page(tmp_path, loss):
  found = journal(tmp_path, loss=lambda step: loss)
  section = pages.sections(pages.parse(render(found)))['Loss']
  drawn = [x.get('d') for x in section.iter('path')]
  assert not any('nan' in x or 'inf' in x for x in drawn)


def test_a_page_during_the_run_and_of_a_single_worker(tmp_path):
  single = {'job': job(workers=1), 'sent': 0}
  page = render(journal(tmp_path, 4, sent=0), Config(steps=9), step=4, **single)
  assert '4 of 9 steps so far' in page
  assert 'MB' not in ''.join(pages.charts(pages.parse(page)))


def test_very_many_lines_make_a_small_page(tmp_path):
  page = render(journal(tmp_path, steps=20_000), step=20_000)
  assert len(page) < 1_000_000


@pytest.mark.skipif(not pages.BROWSER, reason='no browser is installed')
@pytest.mark.parametrize('width', [1280, 390])
def test_nothing_is_wider_than_the_window(tmp_path, width):
  long = 'a_name_without_any_space_' * 8
  config = Config(steps=8, data=Data(source='files', files=(long,)))
  page = render(journal(tmp_path / long[:200]), config, job(long))
  assert pages.overflow(page, tmp_path, width) <= 0


# Parts of a page.


def test_a_curve_is_where_its_numbers_say():
  """Between its ends; what is not a number is a gap."""
  points = [(0, 1.0), (1, math.nan), (2, 3.0), (4, 2.0)]
  curve = chart.Curve('one', points, chart.Look(2, dots=True))
  figure = chart.lines([curve], x='step', y='loss [nats]', within=(1.0, 3.0))
  inner = next(x for x in tree(figure).iter('svg') if x.get('overflow'))
  wide, high = (float(inner.get(x)) for x in ('width', 'height'))
  dots = [
    (float(x.get('cx')), float(x.get('cy'))) for x in inner.iter('circle')
  ]
  assert [y for _, y in dots] == pytest.approx([high, 0, high / 2])
  assert [x / dots[-1][0] for x, _ in dots] == pytest.approx(
    [0, 0.5, 1], abs=1e-3
  )
  assert 0.95 * wide < dots[-1][0] < wide
  (path,) = inner.iter('path')
  assert [x for x in path.get('d') if x.isalpha()] == ['M', 'M', 'L']
  assert path.get('class') == 's2'


def tree(markup):
  return pages.ElementTree.fromstring(markup)


@pytest.mark.parametrize(
  ('last', 'log_x', 'ticks'),
  [
    (300, False, ['0', '100', '200', '300']),
    (1, False, ['0', '0.2', '0.4', '0.6', '0.8', '1']),
    (
      1_000_000,
      False,
      ['0', '200,000', '400,000', '600,000', '800,000', '1,000,000'],
    ),
    (2000, True, ['10', '30', '100', '300', '1,000']),
    (12, True, ['10', '11', '12']),
  ],
)
def test_ticks_are_round_numbers(last, log_x, ticks):
  curve = chart.Curve('one', [(10.0 if log_x else 0.0, 1.0), (last, 2.0)])
  root = tree(chart.lines([curve], x='x', y='y', log_x=log_x))
  found = [x for x in root.iter('text') if x.get('text-anchor') == 'middle']
  assert [x.text for x in found][:-1] == ticks


def test_columns_of_numbers_are_aligned_and_bold_is_markup():
  table = document.table(
    ['name', 'loss'], [['3 a', '**1.5 ± 0.1 (3)**'], ['b < c', '']]
  )
  cells = [*tree(table).iter('td')]
  assert [x.get('class') for x in cells] == [None, 'number'] * 2
  assert cells[1].find('strong').text == '1.5 ± 0.1 (3)'
  assert cells[2].text == 'b < c'


def test_bytes_of_file_names_that_are_not_text_are_replaced():
  """A run must not end because its page cannot be written."""
  text = document.page('a\x1b\udcff', ['\0b'], [])
  assert pages.parse(text).find('.//h1').text == 'a\ufffd\ufffd'
  text.encode('utf-8')


def test_attributes_are_escaped_and_only_markup_is_not():
  found = document.element(
    'a', 'x<y', None, ['&', document.element('b', 1)], title='">'
  )
  assert found == '<a title="&quot;&gt;">x&lt;y&amp;<b>1</b></a>'

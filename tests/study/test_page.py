"""Does the page of a study show its table, its curves and its runs?"""

import math

import pytest

import pages
from studies import result, run
from train.study import comparison, page

EVIL = 'powersgd:rank=<b onclick="x()">8</b>'


def render(found, name='mine', reports=True):
  rows = comparison.rows(found)
  finished = [
    page.Finished(
      x,
      line | {'wall_seconds': 90.0},
      f'{i}:a b/report.html' if reports else None,
    )
    for i, (x, line) in enumerate(found)
  ]
  return page.render(name, rows, finished, bandwidth=100.0, unit='nats'), rows


FOUND = [
  (run('dense'), result(2.0, 6000.0)),
  (run('powersgd', 3.0, 1e-3), result(2.1, 2000.0)),
  (run('powersgd', 3.0, 2e-3), result(math.nan, 2000.0)),
  (run('powersgd', 8.0, 1e-3), result(2.4, 750.0)),
]


def test_table_figure_runs_and_configuration():
  text, rows = render(FOUND)
  root = pages.parse(text)
  found = pages.sections(root)
  assert list(found) == [
    'Table',
    'Figure',
    'Every run',
    'Configuration of all runs',
  ]
  table = comparison.table(rows, 100.0)
  for cell in found['Table'].iter('td'):
    assert pages.text_of(cell).strip() in table.replace('**', '')
  assert len([*found['Table'].iter('tr')]) == table.count('\n|') - 1
  assert pages.charts(found['Figure']) == [
    'held-out loss [nats] against step',
    'held-out loss [nats] against sent per worker [MB]',
    'held-out loss [nats] against predicted time at 100 Mbit/s [s]',
  ]
  assert len(pages.charts(found['Every run'])) == 2
  links = [x.get('href') for x in found['Every run'].iter('a')]
  assert links == [f'./{i}:a%20b/report.html' for i in range(4)]
  differs = pages.text_of(found['Configuration of all runs'])
  assert 'Differs between runs: optimizer.learning_rate.' in differs


def test_a_run_whose_page_is_gone_has_no_link():
  root = pages.parse(render(FOUND, reports=False)[0])
  assert not [*pages.sections(root)['Every run'].iter('a')]


def test_texts_of_people_are_only_texts():
  root = pages.parse(render([*FOUND, (run(EVIL), result(2.2))], EVIL)[0])
  assert root.find('.//h1').text == EVIL
  assert EVIL in [x.text for x in root.iter('td')]


@pytest.mark.skipif(not pages.BROWSER, reason='no browser is installed')
@pytest.mark.parametrize('width', [1280, 390])
def test_nothing_is_wider_than_the_window(tmp_path, width):
  long = run('greedylore:' + 'basis_size=64:' * 8, 3.0)
  text, _ = render([*FOUND, (long, result(2.2))], 'n' * 100)
  assert pages.overflow(text, tmp_path, width) <= 0

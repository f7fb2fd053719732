"""The page of a run: report.html."""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

import greedylore_jax as gl
from train.config import differences
from train.config.schema import Config
from train.page import chart, document
from train.run import build, diagnostics, metrics, paths
from train.run.checkpoint import Snapshot
from train.run.report import words

Lines = Sequence[dict[str, Any]]
# Points of a curve: more of them would not be seen.
_POINTS = 300
_TRAINING = chart.Look(0, faint=True)
_HELD_OUT = chart.Look(0, dots=True)
_ALL_LEAVES = chart.Look(None)
_DIAGNOSTICS = {
  'captured_energy': 'captured energy [share of 1]',
  'error_to_gradient': 'norm of error / norm of gradient',
  'basis_drift': 'basis drift at refreshes [share of 1]',
}


def render(
  config: Config, job: build.Job, now: Snapshot, journal: metrics.Metrics
) -> str:
  """The page as it is after these steps: HTML that loads nothing."""
  summary, lines = words.summary(config, job, now, journal), journal.lines
  is_finished = now.step == config.steps
  return document.page(
    journal.workdir.resolve().name,
    [
      *words.subject(config, job),
      f'{now.step:,} steps'
      if is_finished
      else f'{now.step:,} of {config.steps:,} steps so far',
    ],
    [
      _result(summary, lines),
      _losses(lines, job.task.loss_unit),
      _compression(lines, job.plan),
      _leaves(job.plan),
      document.section(
        'Plan',
        document.preformatted(str(job.plan)),
        document.note(job.traffic.describe()),
      ),
      document.section(
        'Configuration',
        document.configuration(
          differences.flat(dataclasses.asdict(config)),
          differences.flat(dataclasses.asdict(Config())),
        ),
        document.note(
          'The numbers behind this page: ',
          [
            (document.link(name, name), ' ')
            for name in (paths.CONFIG, paths.METRICS, paths.SUMMARY)
          ],
        ),
      ),
    ],
  )


def _result(summary: dict[str, Any], lines: Lines) -> document.Html:
  """The paragraph that ends a run, and its numbers."""
  numbers = {'held-out loss': f'{summary["final_eval_loss"] or 0:.3f}'}
  for name in summary:
    if name.startswith('final_eval_') and name != 'final_eval_loss':
      title = name.removeprefix('final_eval_').replace('_', ' ')
      numbers[f'held-out {title}'] = f'{summary[name]:.3f}'
  if summary['bytes_sent']:
    numbers |= {
      'fewer bytes than dense': f'{summary["compression"]:.3g}x',
      'sent per worker': metrics.format_bytes(summary['bytes_sent']),
    }
  numbers |= {
    'workers': f'{summary["num_workers"]}',
    'training time': f'{summary["seconds"] or 0:,.0f} s',
  }
  return document.section(
    'Result',
    document.tiles(numbers),
    document.element('p', words.paragraph(summary, lines)),
  )


def _losses(lines: Lines, unit: str) -> document.Html:
  """Both losses against steps, bytes and time."""
  curves = metrics.curves(lines, _POINTS)
  training = curves['training']
  held_out = metrics.thinned(curves['evaluations'], _POINTS)

  def against(key: str, title: str, scale: float = 1.0) -> document.Html:
    points = lambda of, loss: [(scale * x[key], x[loss]) for x in of]
    return chart.lines(
      [
        chart.Curve('training', points(training, 'loss'), _TRAINING),
        chart.Curve('held-out', points(held_out, 'eval_loss'), _HELD_OUT),
      ],
      x=title,
      y=f'loss [{unit}]',
    )

  sends = any(x['bytes_sent'] for x in lines)
  return document.section(
    'Loss',
    chart.legend([('training', _TRAINING), ('held-out', _HELD_OUT)]),
    document.panels(
      against('step', 'step'),
      against('bytes_sent', 'sent per worker [MB]', 1e-6) if sends else None,
      against('seconds', 'training time [s]'),
    ),
    document.note(
      'Training time leaves out compilation, evaluations and checkpoints.'
    ),
  )


def _compression(lines: Lines, plan: gl.Plan) -> document.Html | None:
  """What the compression kept and left, of all leaves and of each."""
  shown = [x for x in _DIAGNOSTICS if any(x in line for line in lines)]
  if not shown:
    return None
  having = {
    x: metrics.thinned([line for line in lines if x in line], _POINTS)
    for x in shown
  }
  by_leaf = {x: diagnostics.of_leaves(having[x], x) for x in shown}
  every = {path for of in by_leaf.values() for path in of}
  kinds = {leaf.path: leaf.kind for leaf in plan.leaves if leaf.path in every}
  looks = {
    kind: chart.Look(i, faint=True)
    for i, kind in enumerate(dict.fromkeys(kinds.values()))
  }

  def panel(name: str) -> document.Html:
    together = [(x['step'], x[name]) for x in having[name]]
    return chart.lines(
      [
        *(
          chart.Curve(path, points, looks[kinds[path]])
          for path, points in by_leaf[name].items()
        ),
        chart.Curve('all leaves', together, _ALL_LEAVES),
      ],
      x='step',
      y=_DIAGNOSTICS[name],
      within=(0.0, 1.0) if name == 'captured_energy' else None,
    )

  last = lambda points: f'{points[-1][1]:.3f}' if points else ''
  return document.section(
    'What the compression keeps',
    document.panels(*map(panel, shown)),
    chart.legend([('all leaves', _ALL_LEAVES), *looks.items()]),
    document.note(
      'Captured energy is the share of the squared norm of gradient plus error'
      ' that was sent, on average since the line before. The error is what is'
      ' kept for later steps: if its ratio to the gradient grows all the time,'
      ' too little is sent.'
    ),
    document.element(
      'details',
      document.element('summary', f'The last values of {len(kinds)} leaves'),
      document.table(
        ['leaf', *(x.replace('_', ' ') for x in shown)],
        [
          [path, *(last(by_leaf[x].get(path)) for x in shown)] for path in kinds
        ],
      ),
    ),
  )


def _leaves(plan: gl.Plan) -> document.Html:
  """What is sent of each leaf, and which share of its dense bytes that is."""
  phases = [
    x for x in plan.rounds if any(x in leaf.sent for leaf in plan.leaves)
  ]
  largest = max((leaf.dense_bytes for leaf in plan.leaves), default=0) or 1
  kilobytes = lambda count: f'{count / 1e3:,.2f}'

  def rows() -> Iterator[list[Any]]:
    for leaf in plan.leaves:
      average = _average(plan, leaf)
      label = (
        f'{kilobytes(average)} of {kilobytes(leaf.dense_bytes)} kB in an'
        ' average step'
      )
      yield [
        leaf.path,
        document.bar(
          average / largest, label, whole=leaf.dense_bytes / largest
        ),
        kilobytes(average),
        kilobytes(leaf.dense_bytes),
        *(kilobytes(leaf.sent.get(x, 0)) for x in phases),
        leaf.how if leaf.compressed else f'dense: {leaf.how}',
        ' x '.join(map(str, leaf.shape)),
      ]

  return document.section(
    'Bytes per leaf',
    document.note(
      'What a worker sends in a step: on average in the long run, by dense'
      ' averaging, and in each phase. A bar shows the average as a part of the'
      ' dense bytes.'
    ),
    document.table(
      [
        'leaf',
        'average in dense',
        'average [kB]',
        'dense [kB]',
        *(f'{x.replace("_", "-")} [kB]' for x in phases),
        'sent as',
        'shape',
      ],
      rows(),
    ),
  )


def _average(plan: gl.Plan, leaf: Any) -> float:
  """Bytes of a leaf in a step, in the long run."""
  return sum(
    share * leaf.sent.get(part, 0)
    for phase, share in plan.lasting_phases().items()
    for part in phase.split('+')
  )

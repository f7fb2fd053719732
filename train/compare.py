"""Several compressors on the same run: one table, one figure.

`python -m train.compare CONFIG --compressors dense,greedylore [--key VALUE]`
"""

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

from train import command
from train import metrics

PROG = 'python -m train.compare'


def main(argv: list[str]) -> int:
  """Runs what is not done yet, then compares; returns the exit code.

  Every run is a process of its own with the same configuration but for
  compression.method, in a folder of its own under --workdir, so an interrupted
  comparison goes on where it was.
  """
  parser = argparse.ArgumentParser(
      PROG, description=main.__doc__, allow_abbrev=False
  )
  parser.add_argument('config', help='a file of configs/')
  parser.add_argument(
      '--compressors', required=True, help='methods, separated by commas'
  )
  parser.add_argument('--workdir', help='default: runs/NAME-OF-CONFIG-compare')
  chosen, overrides = parser.parse_known_args(argv)
  methods = chosen.compressors.split(',')
  try:
    for method in methods:  # All are checked before the first one runs.
      command.parse(_arguments(chosen, overrides, method, None), PROG)
  except command.UsageError as error:
    return command.fail(error)
  name = f'{pathlib.Path(chosen.config).stem}-compare'
  folder = pathlib.Path(chosen.workdir or f'runs/{name}')
  for i, method in enumerate(methods):
    print(f'[{i + 1}/{len(methods)}] {method}', flush=True)
    options = _arguments(chosen, overrides, method, folder / method)
    done = subprocess.run([sys.executable, '-m', 'train', *options])
    if done.returncode:
      return done.returncode
  results = {method: _read(folder / method) for method in methods}
  table = _table(results)
  (folder / 'table.md').write_text(table, encoding='utf-8')
  _draw(folder / 'compare.png', results)
  print(f'\n{table}\nTable and figure lie in {folder}.')
  return 0


def _arguments(chosen, overrides, method, workdir) -> list[str]:
  """The command line of one run."""
  place = ['--workdir', str(workdir)] if workdir else []
  return [chosen.config, *overrides, '--compression.method', method, *place]


def _read(folder: pathlib.Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """Summary and metrics of a finished run."""
  summary = json.loads((folder / 'summary.json').read_text(encoding='utf-8'))
  return summary, metrics.read(folder / 'metrics.jsonl')


def _table(results: dict[str, Any]) -> str:
  """The summaries as a table in Markdown."""
  lines = [
      '| method | held-out nats | over the first | bits per byte'
      ' | kB per step | less than dense | seconds |',
      '|---|---|---|---|---|---|---|',
  ]
  first = next(iter(results.values()))[0]['final_eval_loss']
  for method, (s, _) in results.items():
    lines.append(
        f'| {method} | {s["final_eval_loss"]:.4f} |'
        f' {s["final_eval_loss"] / first - 1:+.1%} |'
        f' {s["final_eval_bits_per_byte"]:.3f} |'
        f' {s["bytes_per_step"] / 1e3:,.0f} | {s["compression"]:.2f}x |'
        f' {s["seconds"]:.0f} |'
    )
  return '\n'.join(lines) + '\n'


def _draw(path: pathlib.Path, results: dict[str, Any]) -> None:
  """Held-out and training loss against steps and against bytes."""
  from train import report

  report.draw_curves(path, {m: lines for m, (_, lines) in results.items()})


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

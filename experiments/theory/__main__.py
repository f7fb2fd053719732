"""`python -m experiments.theory [--only NAME ...]`: figures and tables.

Writes NAME.png and NAME.md of each study next to this file. All seeds are
fixed, so only the rounding of another processor changes a number.
"""

import argparse
import pathlib
import time

import matplotlib
from rich import console
import rich.progress

from experiments.theory import contraction, growth, projector, speedup
from experiments.theory import study as studies

matplotlib.use('Agg')
_STUDIES = {x.NAME: x for x in (projector, contraction, growth, speedup)}
_FOLDER = pathlib.Path(__file__).parent


def main() -> None:
  """Runs the chosen studies, by default all."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--only', nargs='+', choices=_STUDIES, default=_STUDIES)
  parser.add_argument('--folder', type=pathlib.Path, default=_FOLDER)
  options = parser.parse_args()
  out = console.Console(highlight=False, soft_wrap=True)
  for name in options.only:
    study, start = _STUDIES[name], time.monotonic()
    with rich.progress.Progress(console=out, transient=True) as progress:
      track = lambda items, progress=progress, name=name: progress.track(
        items, description=name
      )
      found = study.measure(track=track)
    study.draw(found, options.folder / f'{name}.png')
    text = (
      f'# {study.TITLE}\n\n{studies.verdicts(study.claims(found))}\n'
      f'{study.details(found)}'
    )
    (options.folder / f'{name}.md').write_text(text, encoding='utf-8')
    out.print(f'{text}\n{time.monotonic() - start:.0f} s\n', markup=False)


if __name__ == '__main__':
  main()

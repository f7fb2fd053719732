"""An elastic run of actors: FOLDER [SIZES, ATTEMPTS, MAX_RESTARTS] as JSON.

ATTEMPTS holds the actions of the processes of each attempt, see actor.py; the
last attempt is repeated. A process without actions waits to be stopped.
"""

import json
import pathlib
import sys

from train.distributed import crew, elastic
from train.run import paths

_ACTOR = str(pathlib.Path(__file__).with_name('actor.py'))


def main(folder, plan):
  sizes, attempts, max_restarts = json.loads(plan)
  left = iter(attempts[:-1])

  def commands(size):
    print(f'attempt {size}', flush=True)
    actions = [*next(left, attempts[-1]), *(['wait'] * size)][:size]
    return [[sys.executable, _ACTOR, folder, *x.split()] for x in actions]

  def last_step():
    step = paths.last_step(folder)
    pathlib.Path(folder, f'seen-{step}').touch()
    return step

  launcher = crew.Launcher(grace=0.3)
  launcher.listen()
  return elastic.run(
    launcher, elastic.Policy(tuple(sizes), max_restarts), commands, last_step
  )


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))

"""The launcher of a host whose processes are actors.

FOLDER {port, hosts, host, token, sizes, attempts, ...} as JSON. `attempts` has
the actions of the only process of this host in each attempt that it takes part
in, see actor.py; the last one is repeated.
"""

import json
import pathlib
import sys
import threading

from train.distributed import crew, rendezvous
from train.run import paths

_ACTOR = str(pathlib.Path(__file__).with_name('actor.py'))


def main(folder, plan):
  plan = json.loads(plan)
  meeting = rendezvous.Meeting(
    ('127.0.0.1', plan['port']),
    plan['hosts'],
    plan['token'].encode(),
    silence=plan['silence'],
    wait=plan['wait'],
  )
  *early, last = plan['attempts']
  left = iter(early)

  def commands(share):
    print(f'place {share.place} of {share.hosts}', flush=True)
    return [[sys.executable, _ACTOR, folder, *next(left, last).split()]]

  print('trying', flush=True)
  launcher = crew.Launcher(grace=0.3)
  launcher.listen()
  member = rendezvous.Member(launcher, meeting, plan['host'], commands, 1)
  if plan['host']:
    return member.run()
  with rendezvous.Host0(meeting) as host0:
    decisions = rendezvous.Decisions(
      host0, meeting, plan['sizes'], 2, lambda: paths.last_step(folder)
    )
    threading.Thread(target=decisions.decide, daemon=True).start()
    return member.run()


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))

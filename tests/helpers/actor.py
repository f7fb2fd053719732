"""A process that stands for one of a run: FOLDER ACTION ...

An action is `save:STEP` (a complete checkpoint), `seen:STEP` (until the
launcher has seen that), `exit:CODE`, `kill` (by SIGKILL), `wait` (until
SIGTERM, then exit as one that saved), `last` (the same, but it fails then),
`deaf` (SIGTERM ends it, as before a process listens; it is deaf from its first
action on) or `ignore` (SIGTERM does nothing). It prints `ready` when it waits.
"""

import os
import pathlib
import signal
import sys
import time


def main(folder, *actions):
  stop = lambda *_: os._exit(75)
  if 'deaf' not in actions:
    signal.signal(signal.SIGTERM, stop)
  for action in actions:
    name, _, value = action.partition(':')
    if name == 'save':
      pathlib.Path(folder, value).mkdir(parents=True, exist_ok=True)
    elif name == 'seen':
      while not pathlib.Path(folder, f'seen-{value}').exists():
        time.sleep(0.02)
    elif name == 'exit':
      os._exit(int(value))
    elif name == 'kill':
      os.kill(os.getpid(), signal.SIGKILL)
    else:
      if name == 'last':
        signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
      if name == 'ignore':
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
      print('ready', flush=True)
      time.sleep(200)


if __name__ == '__main__':
  main(*sys.argv[1:])

"""Joins other processes as a run does: the keys of `Distributed` as JSON."""

import json
import sys

from train.config import exit_codes
from train.config.schema import Distributed
from train.distributed import processes


def main(words):
  try:
    count = processes.join(Distributed(**json.loads(words)))
  except (ValueError, processes.LostConnection) as error:
    processes.leave(exit_codes.fail(error))
  print(f'joined {count}', flush=True)
  processes.leave(0)


if __name__ == '__main__':
  main(sys.argv[1])

"""How a worker is told what to do: lines on standard input, JSON on output."""

from collections.abc import Callable
import json
import os
import sys
from typing import TextIO


def claim_output() -> TextIO:
  """Standard output for answers only; what libraries print goes to stderr."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  return answers


def follow(
  answers: TextIO, obey: Callable[[str, str, int], list[float]]
) -> None:
  """Says 'ready', then answers each line 'METHOD KIND STEPS' by a list."""
  print(json.dumps('ready'), file=answers, flush=True)
  for line in sys.stdin:
    method, kind, steps = line.split()
    print(json.dumps(obey(method, kind, int(steps))), file=answers, flush=True)

"""Processes of a test that run at the same time."""

import socket
import subprocess

import pytest


def free_port():
  """A port of 127.0.0.1 at which nobody listens."""
  with socket.create_server(('127.0.0.1', 0)) as free:
    return free.getsockname()[1]


def free_address():
  """The address of a free port."""
  return f'127.0.0.1:{free_port()}'


def run(commands, *, timeout, environments):
  """Runs all commands, each of which must end with 0; ends all of them.

  `environments` has the variables of each.
  """
  processes = [
    subprocess.Popen(
      [*map(str, words)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for words, environment in zip(commands, environments, strict=True)
  ]
  try:
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
      process.communicate()
  said = '\n'.join(output[-2000:] for output in outputs)
  assert not any(process.returncode for process in processes), said


class Followed:
  """A process whose output is read while it runs.

  Attributes:
    process: a `subprocess.Popen` with text from its pipes.
    out: what was read so far.
  """

  def __init__(self, *args, **kwargs):
    self.process = subprocess.Popen(
      *args, stdout=subprocess.PIPE, text=True, **kwargs
    )
    self.out = ''

  def until(self, text):
    """Reads the output up to a line that has the text."""
    for line in self.process.stdout:
      self.out += line
      if text in line:
        return
    error = self.process.stderr.read() if self.process.stderr else ''
    pytest.fail(self.out + error)

  def rest(self, timeout):
    """Reads all output up to the end; what was written to standard error."""
    out, error = self.process.communicate(timeout=timeout)
    self.out += out
    return error

"""Does the end that JAX gives a process become one line that says why?"""

import subprocess
import sys

import pytest

from train.distributed import stderr_filter

# As JAX 0.10 writes them, shortened.
FATAL = (
  'F1122 16:37:52.289937   31750 client.h:80] Terminating process because the'
  ' JAX distributed service detected fatal errors. This most likely indicates'
  ' that another task died; see the other task logs. absl::Status: '
)
TRACE = (
  '*** Check failure stack trace: ***\n'
  '    @     0x7f6468a40634  absl::log_internal::LogMessage::SendToLog()\n'
)
SILENT = (
  'E1122 16:37:52.288995   31739 coordination_service.cc:1549] [72] Use error'
  ' polling to propagate the following error to all tasks: UNAVAILABLE: The'
  ' following tasks are unhealthy (stopped sending heartbeats):\n{who}'
  'The tasks have crashed. Check the task logs for an earlier error.\n'
  + FATAL
  + 'UNAVAILABLE: The following tasks are unhealthy (stopped sending'
  ' heartbeats):\n{who}The tasks have crashed.\n' + TRACE
)
NO_COORDINATOR = (
  FATAL + 'UNAVAILABLE: Socket closed\nRPC: /xla.coordination/PollForError\n'
  ':UNKNOWN:Error received from peer {grpc_message:"Socket closed"}\n' + TRACE
)
NOT_ALL_CAME = (
  FATAL + 'DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC:'
  ' /xla.coordination.CoordinationService/RegisterTask\n' + TRACE
)


def after_filter(text):
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'train.distributed.stderr_filter',
      'host:1234',
      '300',
      '60',
    ],
    input=text,
    capture_output=True,
    text=True,
    check=True,
  )
  assert not done.stdout
  return done.stderr


@pytest.mark.parametrize(
  ('log', 'said'),
  [
    (SILENT.format(who='1\n'), 'process 1 of this run sent no heartbeat'),
    (SILENT.format(who='1\n12\n'), 'processes 1, 12 of this run sent'),
    (NO_COORDINATOR, 'process 0, the coordinator at host:1234, is gone'),
    (NOT_ALL_CAME, 'not all processes came to host:1234 within 300 s'),
    (FATAL + 'INTERNAL: no\n' + TRACE, 'JAX ended this process: INTERNAL'),
  ],
)
def test_the_end_is_one_line(log, said):
  before = 'A step failed: Gloo all-reduce failed.\n'
  warning = 'W1122 16:40:14.1 32124 preemption_notifier.cc:90] SIGTERM caught\n'
  err = after_filter(before + warning + log)
  first, last = err.splitlines()
  assert first + '\n' == before
  assert last.startswith(f'error: {said}')


def test_everything_else_is_left_alone():
  other = 'W1122 16:40:14.113415   32124 memory.cc:9] low\nerror: bad\nTrace'
  assert after_filter(other) == other
  not_fatal = 'E1122 16:40:14.113415   32124 coordination_service.cc:9] odd\n'
  assert after_filter(not_fatal) == not_fatal
  assert stderr_filter.translate(not_fatal, 'host:1', 1, 1) is None

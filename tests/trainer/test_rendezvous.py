"""Do the launchers of several hosts keep a run going, and strangers out?"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

import launcher
import runs
import together
from train.config import exit_codes
from train.config.schema import Compression


class Host(together.Followed):
  """The launcher of a host, see helpers/launcher.py."""

  def __init__(self, folder, port, host, attempts, **more):
    plan = {
      'port': port,
      'hosts': 2,
      'host': host,
      'token': 'a shared secret',
      'sizes': [2, 1],
      'silence': 30,
      'wait': 20,
      'attempts': attempts,
    }
    super().__init__(
      [sys.executable, launcher.__file__, str(folder), json.dumps(plan | more)],
      env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)},
      stderr=subprocess.PIPE,
    )

  def end(self):
    """Exit code, the places that it had, and standard error."""
    error = self.rest(timeout=150)
    places = re.findall(r'place (\d) of (\d)', self.out)
    return self.process.returncode, [''.join(x) for x in places], error


@pytest.fixture
def hosts(tmp_path):
  """Starts launchers that meet at one port; they are killed at the end."""
  port = together.free_port()
  started = []

  def start(host, *attempts, **more):
    started.append(Host(tmp_path, port, host, attempts, **more))
    return started[-1]

  start.port = port
  yield start
  for one in started:
    with one.process as process:
      process.kill()


def test_a_lost_process_of_another_host_restarts_all(hosts):
  one = hosts(0, 'save:4 wait', 'exit:0')
  other = hosts(1, 'save:4 kill', 'exit:0')
  assert one.end() == (
    0,
    ['02', '02'],
    'Process 1 was ended by SIGKILL on host 1; resuming after step 4 with the'
    ' hosts that are there.\n',
  )
  assert other.end() == (0, ['12', '12'], '')


def test_a_lost_host_is_left_out_until_it_is_there_again(hosts):
  other = hosts(1, 'wait')
  other.until('trying')  # Host 0 waits for it no longer than 5 s.
  one = hosts(0, 'wait', 'save:5 wait', 'exit:0', wait=5)
  other.until('place 1 of 2')
  other.process.kill()
  one.until('place 0 of 1')
  again = hosts(1, 'exit:0')
  code, places, error = one.end()
  assert (code, places) == (0, ['02', '01', '02'])
  assert again.end() == (0, ['12'], '')
  assert error.splitlines() == [
    'Host 1 is away; resuming from the beginning with the hosts that are'
    ' there.',
    'A host has come back; resuming after step 5 with the hosts that are'
    ' there.',
  ]


def test_a_link_that_is_cut_and_comes_back(hosts):
  """A launcher that is suspended is silent, as one behind a cut link is."""
  one = hosts(0, 'wait', 'exit:0', silence=4)
  other = hosts(1, 'wait', 'exit:0', silence=4)
  other.until('place 1 of 2')
  other.process.send_signal(signal.SIGSTOP)
  time.sleep(8)
  other.process.send_signal(signal.SIGCONT)
  code, places, error = one.end()
  assert (code, places) == (0, ['02', '02'])
  assert error.startswith('Host 1 is away; resuming from the beginning')
  assert other.end()[:2] == (0, ['12', '12'])


@pytest.mark.parametrize('host', [0, 1])
def test_a_request_to_stop_reaches_all_hosts(hosts, host):
  """Or, if one other host is asked, that one leaves."""
  other = hosts(1, 'wait')
  other.until('trying')
  both = hosts(0, 'wait', 'exit:0', wait=5), other
  other.until('place 1 of 2')
  both[host].process.terminate()
  assert both[host].end()[0] == exit_codes.PREEMPTED
  if host:
    assert both[0].end()[:2] == (0, ['02', '01'])
  else:
    both[1].process.wait(60)
    assert both[1].process.returncode == exit_codes.PREEMPTED


def test_it_gives_up_and_tells_all(hosts):
  both = hosts(0, 'wait'), hosts(1, 'kill')
  for i, one in enumerate(both):
    code, places, error = one.end()
    assert (code, places) == (128 + 9, [f'{i}2'] * 3)
    if not i:
      last = error.splitlines()[-1]
      assert last.startswith('error: gave up after 2 restarts without a newer')
      assert 'Process 1 was ended by SIGKILL on host 1' in last


def test_bad_input_is_not_restarted(hosts):
  both = hosts(0, 'wait'), hosts(1, 'exit:2')
  assert [one.end()[0] for one in both] == [2, 2]


def test_hosts_that_do_not_come_are_named(hosts):
  code, _, error = hosts(0, 'wait', sizes=[2], wait=1).end()
  assert code == exit_codes.LOST
  assert (
    error == 'error: at least 2 of 2 hosts must join within 1 s, got [0].\n'
  )


def test_another_token_is_refused(hosts):
  one = hosts(0, 'exit:0')
  stranger = hosts(1, 'exit:0', token='another secret', wait=2)
  code, places, error = stranger.end()
  assert (code, places) == (2, [])
  assert re.fullmatch(
    r'error: host 0 must answer at .* same token; .*\n', error
  )
  hosts(1, 'exit:0')
  assert one.end()[0] == 0


def test_strangers_change_nothing(hosts):
  one = hosts(0, 'save:3 wait', 'exit:0')
  lines = [
    b'',
    b'\n',
    b'x' * 100_000,
    b'[' * 4000 + b'\n',
    b'{"host": 1, "proof": "\xff"}\n',
    b'{"host": 1, "proof": "00"}\n',
    b'{"host": 1, "proof": null}\n',
    b'{"host": -1}\n',
    b'{"host": ' + b'9' * 4000 + b'}\n',
    b'{"finish": 0}\n',
  ]
  for _ in range(100):
    with contextlib.suppress(ConnectionRefusedError):
      socket.create_connection(('127.0.0.1', hosts.port)).close()
      break
    time.sleep(0.1)
  for text in lines * 5:
    address = '127.0.0.1', hosts.port
    with (
      contextlib.suppress(ConnectionError),
      socket.create_connection(address) as connection,
    ):
      connection.recv(100)
      connection.sendall(text)
  other = hosts(1, 'exit:0')
  other.until('place 1 of 2')
  assert one.process.poll() is None
  one.process.terminate()
  one.end()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_launchers_train_a_real_run(tmp_path):
  """Whose processes have the numbers 0 and 1, and whose workers are four."""
  path = runs.write(tmp_path, compression=Compression('dense'))
  port = together.free_port()
  token = tmp_path / 'token'
  token.write_text('a secret of 23 characters\n')
  launchers = [
    subprocess.Popen(
      [
        *(sys.executable, '-m', 'train.launch', path, '--elastic'),
        *('--num_processes=1', '--hosts=2', f'--host={i}'),
        f'--rendezvous=127.0.0.1:{port}',
        f'--token_file={token}',
        f'--workdir={tmp_path / "work"}',
      ],
      env=runs.environment(),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  said = [one.communicate(timeout=500) for one in launchers]
  assert [one.returncode for one in launchers] == [0, 0], said
  assert [error for _, error in said] == ['', '']
  for i, (out, _) in enumerate(said):
    assert {line[:4] for line in out.splitlines()} <= {f'[{i}] '}
  summary = json.loads((tmp_path / 'work' / 'summary.json').read_text())
  assert summary['num_workers'] == 4

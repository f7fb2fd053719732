"""Are there hosts, with real links, and do their cards count what is planned?

Needs root and iproute2, and is skipped without.
"""

import contextlib
import itertools
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

import pytest

from benchmarks.network import hosts as hosts_lib
from benchmarks.network import trainers, wire
from train.run import metrics

try:
  hosts_lib.require()
except hosts_lib.Unavailable as reason:
  pytest.skip(str(reason), allow_module_level=True)

RECEIVE = """
import socket
with socket.create_server(('', 5000)) as server:
  print('ready', flush=True)
  connection, _ = server.accept()
  while connection.recv(2**20):
    pass
  connection.send(b'.')
"""
SEND = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 5000))
start = time.perf_counter()
connection.sendall(bytes(int(sys.argv[2])))
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
print(time.perf_counter() - start)
"""
CONNECT = """
import contextlib, socket, sys, time
for _ in range(5):
  start = time.perf_counter()
  with contextlib.suppress(ConnectionRefusedError):
    socket.create_connection((sys.argv[1], 5001)).close()
  print(time.perf_counter() - start)
"""
ABANDONED = """
import os, time
from benchmarks.network import hosts
with hosts.Hosts(2, '1gbit', milliseconds=1) as pair:
  pair.popen(1, ['sleep', '1000'])
  pair.run(1, ['true'])
  with open(f'/proc/self/task/{os.getpid()}/children') as file:
    children = file.read().split()
  found = {os.readlink(f'/proc/{x}/ns/net') for x in children}
  print(*found - {os.readlink('/proc/self/ns/net')}, flush=True)
  time.sleep(1000)
"""


def network_of(hosts, i):
  return hosts.run(i, ['readlink', '/proc/self/ns/net']).strip()


def networks():
  """Those in which there is a process."""
  found = set()
  for folder in pathlib.Path('/proc').glob('[0-9]*'):
    with contextlib.suppress(OSError):  # It has ended.
      found.add(os.readlink(folder / 'ns' / 'net'))
  return found


def around():
  """What hosts must leave alone: the machine's own cards and names."""
  done = subprocess.run(
    ['ip', '-o', 'link'], capture_output=True, text=True, check=True
  )
  return done.stdout, pathlib.Path('/etc/hosts').read_text(encoding='utf-8')


def fastest(hosts, size):
  """The least seconds of some tries: other work can only slow one down."""
  return min(sent_through(hosts, size) for _ in range(5))


def sent_through(hosts, size):
  """Sends so many bytes from host 0 to host 1; returns the seconds."""
  receiver = hosts.popen(
    1, [sys.executable, '-c', RECEIVE], stdout=subprocess.PIPE
  )
  with receiver:
    assert receiver.stdout.readline() == b'ready\n'
    send = [sys.executable, '-c', SEND, hosts.address(1), str(size)]
    return float(hosts.run(0, send))


def test_a_link_is_as_slow_as_asked_and_counts_its_bytes():
  size = 2_000_000
  with hosts_lib.Hosts(2, '40mbit') as hosts:
    seconds = sent_through(hosts, size)
    # The first 80 kB are in the bucket; the headers of 1,500 bytes come to 5 %.
    assert seconds > 0.9 * 8 * size / 40e6
    assert size < hosts.sent_bytes(0) < 1.01 * size
    assert hosts.sent_bytes(1) < 0.01 * size, 'only acknowledges'
    hosts.limit(None)
    assert fastest(hosts, size) < seconds / 4


def round_trip(hosts):
  """Seconds of the fastest of some round trips from host 0 to host 1."""
  done = hosts.run(0, [sys.executable, '-c', CONNECT, hosts.address(1)])
  return min(map(float, done.split()))


def test_a_link_takes_as_long_as_asked_at_its_rate():
  """One way to the peer and one way back, also when it changes."""
  size = 1_000_000
  with hosts_lib.Hosts(2, '10mbit', milliseconds=40) as hosts:
    assert 0.08 < round_trip(hosts) < 0.12
    # TCP takes some round trips to reach the rate.
    alone = 8 * size / 10e6
    assert 0.9 * alone < fastest(hosts, size) < alone + 10 * 0.08
    hosts.delay(5)
    assert 0.01 < round_trip(hosts) < 0.05
    hosts.delay(0)
    assert round_trip(hosts) < 0.01
    assert sent_through(hosts, size) > 0.9 * alone
  with pytest.raises(ValueError, match='at least 0 milliseconds, got -1'):
    hosts.delay(-1)


def test_slow_links_have_no_bytes_to_give_away():
  """At 1 Mbit/s a bucket of 80 kB would be most of a second."""
  with hosts_lib.Hosts(2, '1mbit') as hosts:
    assert sent_through(hosts, 100_000) > 0.95 * 0.8


def test_a_host_knows_its_name_as_gloo_needs_it():
  ask = 'import socket; print(socket.gethostbyname(socket.gethostname()))'
  with hosts_lib.Hosts(2) as hosts:
    for i in range(2):
      said = hosts.run(i, [sys.executable, '-c', ask])
      assert said.strip() == hosts.address(i)
    with pytest.raises(subprocess.CalledProcessError):
      hosts.run(0, ['false'])


def interrupted(seen):
  """Notes the networks of four hosts, and leaves them like Ctrl-C does."""
  with (
    hosts_lib.Hosts(2, '1gbit', milliseconds=1) as some,
    hosts_lib.Hosts(2, '1gbit') as others,
  ):
    others.popen(0, ['sleep', '1000'])
    seen |= {network_of(hosts, i) for hosts in (some, others) for i in range(2)}
    assert len(seen) == 4
    assert seen <= networks()
    raise KeyboardInterrupt


def test_nothing_is_left_behind():
  before, seen = around(), set()
  with pytest.raises(KeyboardInterrupt):
    interrupted(seen)
  assert not seen & networks()
  assert around() == before


def test_nothing_is_left_behind_by_a_program_that_is_killed():
  program = subprocess.Popen(
    [sys.executable, '-c', ABANDONED], stdout=subprocess.PIPE, text=True
  )
  with program:
    seen = set(program.stdout.readline().split())
    assert len(seen) == 3, 'two hosts and the switch between them'
    assert seen <= networks()
    program.send_signal(signal.SIGKILL)
  until = time.monotonic() + 20
  while seen & networks() and time.monotonic() < until:
    time.sleep(0.05)
  assert not seen & networks()


@pytest.mark.slow
def test_local_steps_do_not_notice_a_delay(tmp_path):
  """The trainer, which logs every step, with 100 ms to the other host."""
  options = wire.RUN | {
    'steps': 17,
    'model.width': 32,
    'model.layers': 1,
    'model.feed_forward': 64,
    'data.sequence_length': 16,
    'compression.method': 'powersgd',
    'compression.rank': 2,
    'compression.start_step': 0,
    'local.every': 8,
    'local.start_step': 1,
  }
  with hosts_lib.Hosts(2, '100mbit', milliseconds=100) as hosts:
    run = trainers.start(hosts, tmp_path, wire.CONFIG, options)
    trainers.wait(run, tmp_path, timeout=200)
  lines = metrics.read(tmp_path / 'metrics.jsonl')
  ends = [x['seconds'] for x in lines if 'loss' in x]
  seconds = [b - a for a, b in itertools.pairwise(ends)]
  local, rounds = [*seconds[:7], *seconds[8:15]], [seconds[7], seconds[15]]
  assert len(seconds) == 16
  assert statistics.median(local) < 0.1, 'less than one way'
  assert min(rounds) > 0.2, 'at least there and back'


def test_without_tools_a_line_says_what_to_install(monkeypatch):
  monkeypatch.setenv('PATH', '')
  with pytest.raises(hosts_lib.Unavailable, match='apt-get install iproute2'):
    hosts_lib.require()


@pytest.mark.slow
@pytest.mark.parametrize(
  ('hosts', 'method', 'phases'),
  [
    (2, 'GreedyLore, r = 8', ['warmup', 'refresh', 'compress']),
    (2, 'ChunkTopK, keep = 512', ['warmup', 'compress']),
    (4, 'ChunkTopK, keep = 512', ['warmup', 'compress']),
  ],
)
def test_the_cards_count_what_is_planned(
  tmp_path, monkeypatch, hosts, method, phases
):
  # A host has one device.
  monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=0')
  changes = {
    'steps': 4,
    'model.width': 256,
    'model.layers': 1,
    'model.feed_forward': 688,
    'compression.start_step': 1,
    'compression.update_interval': 2,
  }
  run = wire.measure(hosts, method, tmp_path, '1gbit', changes)
  assert [x.name for x in run.phases] == phases
  options = wire.RUN | changes | trainers.options_of(method)
  leaves = trainers.plan(wire.CONFIG, options, hosts).leaves
  beside = 4 + 12 * sum(leaf.compressed for leaf in leaves)
  for phase in run.phases:
    assert phase.reported == phase.planned + beside, 'loss and diagnostics'
    assert 0 < phase.excess < wire.TOLERANCE
  assert run.before < 20_000 * (hosts - 1), 'joining, with each of the others'

"""Does a message travel while JAX computes on a CPU?

`python -m benchmarks.network.overlap` runs two programs on each of two
simulated hosts: local steps (products of matrices, nothing is sent) and a
message (an all-reduce over gloo). It times each of them alone, and then the
steps while the message is under way:

  dispatched: the message is dispatched first, on the device of the steps;
  thread: the same, from another thread of Python;
  device: dispatched first, on a second virtual device of the process.

Steps are waited for one by one, as in the trainer's loop. Overlap is the share
of the shorter part that is hidden: 0 % is one after the other, 100 % is both at
once. XLA gives its CPU client a thread per processor, and a program that waits
for a message keeps one of them, so more threads (NPROC) are tried, too.

Prints a line of JSON for each number of threads. Needs root, iproute2 and two
minutes on two cores.
"""

import argparse
from collections.abc import Callable
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from benchmarks.averaging import crew
from benchmarks.network import hosts as hosts_lib
from train.config import exit_codes

_P = jax.sharding.PartitionSpec
_PORT = 7777
_SIDE, _PRODUCTS = 512, 30
_TRIES = 5


def main() -> int:
  """Measures and prints; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--rate', default='10mbit', help='of each link, as tc spells it')
  add('--delay', type=float, default=50, help='milliseconds, one way')
  add('--megabytes', type=float, default=0.83, help='of the message')
  add('--steps', type=int, default=10, help='local steps per message')
  add('--worker', help=argparse.SUPPRESS)
  given = parser.parse_args()
  if given.worker:
    return _work(given)
  try:
    for threads in ({}, {'NPROC': '4'}):
      with hosts_lib.Hosts(2, given.rate, given.delay) as hosts:
        found = _on(hosts, threads)
      print(json.dumps(threads | found), flush=True)
  except hosts_lib.Unavailable as error:
    return exit_codes.fail(error, 1)
  print(machine.describe())
  return 0


def _on(hosts: hosts_lib.Hosts, variables: dict[str, str]) -> Any:
  """What the first of the hosts found, each with its own core."""
  cores = sorted(os.sched_getaffinity(0))
  workers = []
  for i in range(hosts.count):
    pinned = ['taskset', '-c', str(cores[i % len(cores)]), sys.executable]
    module = ['-m', 'benchmarks.network.overlap', *sys.argv[1:]]
    worker = hosts.popen(
      i,
      [*pinned, *module, '--worker', f'{hosts.address(0)}:{_PORT},{i}'],
      stdout=subprocess.PIPE,
      text=True,
      env=os.environ | machine.ENVIRONMENT | variables,
    )
    workers.append(worker)
  said = [worker.communicate()[0] for worker in workers]
  return json.loads(said[0])


def _work(given: Any) -> int:
  """One of the two hosts; answers with its seconds."""
  answers = crew.claim_output()
  coordinator, _, index = given.worker.partition(',')
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.config.update('jax_num_cpu_devices', 2)
  jax.distributed.initialize(coordinator, 2, int(index))
  numbers = round(given.megabytes * 1e6 / 4)
  send, aside = (_sender(device, numbers) for device in (0, 1))
  start = jax.device_put(
    jnp.ones((_SIDE, _SIDE)) / _SIDE, jax.local_devices()[0]
  )
  product = lambda x, _: (jnp.tanh(x @ x), None)
  step = jax.jit(lambda x: jax.lax.scan(product, x, None, _PRODUCTS)[0])

  def steps() -> None:
    x = start
    for _ in range(given.steps):
      x = jax.block_until_ready(step(x))

  def dispatched(send: Callable[[], jax.Array]) -> None:
    sent = send()
    steps()
    jax.block_until_ready(sent)

  def thread() -> None:
    sending = threading.Thread(target=lambda: jax.block_until_ready(send()))
    sending.start()
    steps()
    sending.join()

  ways: dict[str, Callable[[], Any]] = {
    'steps': steps,
    'message': lambda: jax.block_until_ready(send()),
    'dispatched': lambda: dispatched(send),
    'thread': thread,
    'device': lambda: dispatched(aside),
  }
  meet = _sender(0, 1)
  seconds: dict[str, list[float]] = {name: [] for name in ways}
  for _ in range(1 + _TRIES):
    for name, run in ways.items():
      jax.block_until_ready(meet())
      begin = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - begin)
  found = {name: statistics.median(x[1:]) for name, x in seconds.items()}
  whole = found['steps'] + found['message']
  shorter = min(found['steps'], found['message'])
  overlaps = {
    f'{name} overlaps': round((whole - found[name]) / shorter, 2)
    for name in ('dispatched', 'thread', 'device')
  }
  rounded = {name: round(x, 3) for name, x in found.items()}
  crew.answer(answers, rounded | overlaps)
  return 0


def _sender(device: int, numbers: int) -> Callable[[], jax.Array]:
  """Averages float32 numbers, from that device of each process."""
  of_process: dict[int, list[jax.Device]] = {}
  for x in jax.devices():
    of_process.setdefault(x.process_index, []).append(x)
  chosen = [devices[device] for _, devices in sorted(of_process.items())]
  mesh = jax.sharding.Mesh(np.array(chosen), ('host',))
  message = jax.make_array_from_process_local_data(
    jax.sharding.NamedSharding(mesh, _P('host')),
    np.ones((1, numbers), np.float32),
  )
  mean = jax.jit(
    jax.shard_map(
      lambda x: jax.lax.pmean(x, 'host'),
      mesh=mesh,
      in_specs=_P('host'),
      out_specs=_P(),
    )
  )
  return lambda: mean(message)


if __name__ == '__main__':
  sys.exit(main())

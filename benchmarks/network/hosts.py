"""Simulated hosts on one machine, connected by links of chosen rate and delay.

    with Hosts(2, '100mbit', milliseconds=50) as hosts:
      hosts.run(0, ['ping', '-c', '1', hosts.address(1)])
      print(hosts.sent_bytes(0))

A host has its own network, hostname and /etc/hosts (Linux namespaces). Its
network card is one end of a veth pair whose other end is plugged into a bridge,
and a token bucket (tbf) limits the bits per second. With a delay, a program in
the place of the bridge holds every frame for some time: `relay`. Hosts share
the files, processors and memory of the machine.

Namespaces, cards and bridge have no names in the system. They exist as long as
the processes that hold them, and those end when their standard input closes. So
nothing is left behind, however this program ends (SIGKILL included), and any
number of programs can have hosts at the same time. Needs root on Linux, and
Debian's iproute2 and util-linux.
"""

from collections.abc import Sequence
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import Any, NamedTuple

_PACKAGES = {
  'ip': 'iproute2',
  'tc': 'iproute2',
  'unshare': 'util-linux',
  'nsenter': 'util-linux',
  'setpriv': 'util-linux',
  'mount': 'mount',
}
_KILLED_WITH_US = ('setpriv', '--pdeathsig', 'KILL')
_NAMESPACES = ('--net', '--mount', '--uts')
# $1 is the hostname, $2 the content of /etc/hosts. gloo binds to the address
# that the hostname resolves to. `cat` ends when this program does.
_HOLD = """
echo "$1" >/proc/sys/kernel/hostname
file=$(mktemp)
printf '%s' "$2" >"$file"
mount --bind "$file" /etc/hosts
rm "$file"
ip link set lo up
echo ready
exec cat
"""
# A segment of 64 KiB as the kernel passes it to the card, with one header per
# 1,500 bytes: a smaller bucket has to split it.
_WHOLE_SEGMENT = 80_000
_TWO_FRAMES = 2 * 1514
_HEADERS = 14 + 20 + 32  # Ethernet, IPv4, TCP with its time stamps.


class Unavailable(Exception):
  """This machine cannot simulate hosts; the message says why."""


def require() -> None:
  """Raises `Unavailable`, with one line, if there can be no hosts."""
  if os.name != 'posix' or os.geteuid():
    raise Unavailable('hosts on one machine need Linux and root: try sudo')
  missing = {p for tool, p in _PACKAGES.items() if not shutil.which(tool)}
  if missing:
    raise Unavailable(
      'hosts on one machine need packages that are missing: apt-get install '
      + ' '.join(sorted(missing))
    )
  tried = ['unshare', *_NAMESPACES, 'true']
  done = subprocess.run(tried, capture_output=True, text=True, check=False)
  if done.returncode:
    raise Unavailable(
      f'this machine allows no namespaces (a container?): {_output(done)}'
    )


class Sent(NamedTuple):
  """What a network card has sent so far, by its own count."""

  bytes: int
  """With the headers of Ethernet, IP and TCP, once per packet."""
  packets: int
  """As the kernel passes them on: acknowledgements, and segments of up to 64
  KiB. (The token bucket counts headers once per 1,500 bytes, like a wire.)"""

  @property
  def without_headers(self) -> int:
    """Bytes inside of TCP, if it is all TCP."""
    return self.bytes - _HEADERS * self.packets


def sent(process: int | str = 'self') -> Sent:
  """What the card of a process's host has sent so far.

  Raises:
    Unavailable: if the process runs on no host.
  """
  table = pathlib.Path(f'/proc/{process}/net/dev').read_text(encoding='utf-8')
  for line in table.splitlines():
    name, _, numbers = line.partition(':')
    if name.strip() == 'eth0':
      count, packets = numbers.split()[8:10]
      return Sent(int(count), int(packets))
  raise Unavailable(f'process {process} is on no host: it has no eth0')


class Hosts:
  """`count` hosts, each sending at most `rate`; a context manager.

  Every host can resolve the names host0, host1, ...
  """

  def __init__(
    self, count: int, rate: str | None = None, milliseconds: float = 0
  ):
    """Takes what `limit` and `delay` take."""
    self.count = count
    self._rate: str | None = None
    self._given = rate, milliseconds
    self._relay: subprocess.Popen[str] | None = None
    self._holders: list[subprocess.Popen[str]] = []
    self._started: list[subprocess.Popen[Any]] = []

  def __enter__(self) -> 'Hosts':
    require()
    try:
      self._build()
    except BaseException:
      self._end()
      raise
    return self

  def __exit__(self, *_: Any) -> None:
    self._end()

  def address(self, i: int) -> str:
    """The address of host i."""
    return f'10.77.{(i + 1) // 256}.{(i + 1) % 256}'

  def popen(self, i: int, command: Sequence[str], **options: Any) -> Any:
    """`subprocess.Popen(command, **options)` on host i.

    The process and its children are killed when the hosts or this program
    end, except for children that started their own session.
    """
    # A process that enters a mount namespace starts at its root.
    folder = ['env', f'--chdir={options.pop("cwd", None) or os.getcwd()}']
    process = subprocess.Popen(
      [*_KILLED_WITH_US, *self._enter(i), *folder, *command],
      start_new_session=True,
      **options,
    )
    self._started.append(process)
    return process

  def run(self, i: int, command: Sequence[str]) -> str:
    """What a command printed on host i, errors included.

    Raises:
      subprocess.CalledProcessError: if it fails; `output` is what it printed.
    """
    process = self.popen(
      i, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output, _ = process.communicate()
    if process.returncode:
      raise subprocess.CalledProcessError(process.returncode, command, output)
    return output

  def sent_bytes(self, i: int) -> int:
    """Bytes that host i has sent so far, as its network card counts them."""
    return sent(self._holders[i].pid).bytes

  def limit(self, rate: str | None) -> None:
    """Changes the rate of all hosts, also while processes run on them.

    Takes a rate as tc spells it ('100mbit', '1gbit'), or None for no limit.
    """
    bucket = _bucket(rate)
    for i in range(self.count):
      verb = 'replace' if rate else 'del'
      if rate or self._rate:
        self._inside(i, 'tc', 'qdisc', verb, 'dev', 'eth0', 'root', *bucket)
    self._rate = rate

  def slow_down(self, i: int, times: float) -> None:
    """Divides the rate of host i; 1 gives it back the rate of all hosts."""
    if self._rate is None:
      raise ValueError('a link without a limit cannot be slowed down')
    rate = f'{bits_per_second(self._rate) / times / 1e3:g}kbit'
    bucket = _bucket(rate)
    self._inside(i, 'tc', 'qdisc', 'replace', 'dev', 'eth0', 'root', *bucket)

  def connect(self, i: int, is_connected: bool) -> None:
    """Plugs the cable of host i in, or out: frames are lost then."""
    state = 'up' if is_connected else 'down'
    self._inside(self.count, 'ip', 'link', 'set', f'port{i}', state)

  def delay(self, milliseconds: float) -> None:
    """Changes the delay of all links, also while processes run on the hosts.

    A frame takes `milliseconds` from one host to another, and a round
    trip twice as many. Frames that are under way are lost, so TCP sends them
    again. The program that delays uses the processor, too: a fifth of a core at
    1 Gbit/s, and nothing while nothing is sent.
    """
    if not milliseconds >= 0:
      raise ValueError(
        f'the delay must be at least 0 milliseconds, got {milliseconds}.'
      )
    self._end_relay()
    ports = [f'port{i}' for i in range(self.count)]
    for port in ports:
      plug = ('nomaster',) if milliseconds else ('master', 'bridge')
      self._inside(self.count, 'ip', 'link', 'set', port, *plug)
    if milliseconds:
      module = [sys.executable, '-m', 'benchmarks.network.relay']
      self._relay = self.popen(
        self.count,
        [*module, str(milliseconds), *ports],
        cwd=str(pathlib.Path(__file__).parents[2]),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
      )
      assert self._relay is not None
      assert self._relay.stdout is not None
      if self._relay.stdout.readline() != 'ready\n':
        raise Unavailable('the links cannot be delayed here; see above')

  def _build(self) -> None:
    """Creates holders, then a bridge in its own network, then the cables."""
    names = [(self.address(i), f'host{i}') for i in range(self.count)]
    table = [('127.0.0.1', 'localhost'), *names]
    hosts_file = ''.join(f'{address} {name}\n' for address, name in table)
    for name in [*(name for _, name in names), 'switch']:
      self._hold(name, hosts_file)
    link = 'link', 'add'
    switch = self.count
    self._inside(switch, 'ip', *link, 'bridge', 'type', 'bridge')
    self._inside(switch, 'ip', 'link', 'set', 'bridge', 'up')
    for i, (address, _) in enumerate(names):
      port, card = f'port{i}', ('netns', str(self._holders[i].pid))
      pair = 'type', 'veth', 'peer', 'name', 'eth0'
      self._inside(switch, 'ip', *link, port, *pair, *card)
      self._inside(switch, 'ip', 'link', 'set', port, 'addrgenmode', 'none')
      self._inside(switch, 'ip', 'link', 'set', port, 'up')
      # No IPv6: it sends packets on its own, which would be counted.
      self._inside(i, 'ip', 'link', 'set', 'eth0', 'addrgenmode', 'none', 'up')
      self._inside(i, 'ip', 'address', 'add', f'{address}/16', 'dev', 'eth0')
    rate, milliseconds = self._given
    self.limit(rate)
    self.delay(milliseconds)

  def _hold(self, name: str, hosts_file: str) -> None:
    """Starts the process whose namespaces are a host."""
    shell = ['sh', '-ec', _HOLD, 'sh', name, hosts_file]
    holder = subprocess.Popen(
      ['unshare', *_NAMESPACES, *shell],
      start_new_session=True,
      text=True,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
    self._holders.append(holder)
    assert holder.stdout is not None
    assert holder.stderr is not None
    if holder.stdout.readline() != 'ready\n':
      raise Unavailable(f'no host can be made here: {holder.stderr.read()}')

  def _enter(self, i: int) -> list[str]:
    """The command that runs another one on host i."""
    target = '--target', str(self._holders[i].pid)
    return ['nsenter', *target, *_NAMESPACES, '--']

  def _inside(self, i: int, *command: str) -> None:
    """Runs a command that must succeed."""
    done = subprocess.run(
      [*self._enter(i), *command], capture_output=True, text=True, check=False
    )
    if done.returncode:
      raise Unavailable(f'{" ".join(command)} failed: {_output(done)}')

  def _end_relay(self) -> None:
    if self._relay:
      _kill(self._relay)
      self._relay.communicate()
      self._relay = None

  def _end(self) -> None:
    """Kills the processes on the hosts, and the hosts."""
    self._end_relay()
    for process in self._started:
      _kill(process)
    for holder in self._holders:
      holder.kill()
      holder.communicate()
    self._started, self._holders = [], []


def _kill(process: subprocess.Popen[Any]) -> None:
  """Ends a process that `Hosts.popen` started, with its children."""
  if process.poll() is None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def bits_per_second(rate: str) -> float:
  """'200mbit' -> 2e8.

  Raises:
    ValueError: for other spellings.
  """
  for unit, factor in (('gbit', 1e9), ('mbit', 1e6), ('kbit', 1e3)):
    number = rate.removesuffix(unit)
    if number != rate and number.replace('.', '', 1).isdigit():
      return float(number) * factor
  raise ValueError(
    f"expected a rate such as '100mbit' or '1gbit', got {rate!r}."
  )


def _bucket(rate: str | None) -> list[str]:
  """The arguments of tc for the token bucket of a rate.

  After a pause a bucket's worth of bytes is sent at once, so it must be far
  smaller than a message: a millisecond's worth on fast links, and at most 20
  milliseconds' worth on slow ones, where it costs little to split segments.
  """
  if rate is None:
    return []
  per_millisecond = math.ceil(bits_per_second(rate) / 8e3)
  least = min(_WHOLE_SEGMENT, max(_TWO_FRAMES, 20 * per_millisecond))
  burst = max(least, per_millisecond)
  return ['tbf', 'rate', rate, 'burst', f'{burst}b', 'latency', '200ms']


def _output(done: Any) -> str:
  """The output of a failed command, in one line."""
  return ' '.join((done.stderr or done.stdout).split())

"""One launcher per host: how they meet, and what they tell each other.

The launcher of host 0 listens, decides who takes part in an attempt and when to
start again; see `elastic`. Every launcher, also that of host 0, is a member: it
runs the processes of its host.

A message is one line of JSON of at most 4,096 bytes. Host 0 sends numbers only:
each launcher makes its commands of its own command line. A member proves that
it knows a shared token by an HMAC of a number that is used once; the token is
not sent. Messages are neither encrypted nor authenticated after that.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import functools
import hashlib
import hmac
import json
import queue
import secrets
import socket
import threading
import time
from typing import Any

from train.config import exit_codes
from train.distributed import crew

_LONGEST = 4096
_BEAT = 2.0  # At most a tenth of the silence that is allowed.
# Connections that are not of members, yet or ever.
_STRANGERS = 32

Message = dict[str, Any]
# (host, message); None is a member whose connection is gone.
_Event = tuple[int, 'Message | None', 'Line']


@dataclasses.dataclass(frozen=True)
class Meeting:
  """What all launchers of a run are started with.

  Attributes:
    address: where host 0 listens.
    hosts: how many there are.
    token: shared by them.
    silence: seconds without a message after which a host counts as away. After
      a cut, TCP waits about as long again as the cut took before it retries.
    wait: seconds that an attempt waits for hosts that are away, and a host for
      host 0 to come back.
  """

  address: tuple[str, int]
  hosts: int
  token: bytes
  silence: float = 60.0
  wait: float = 300.0


class Line:
  """A connection on which both sides send lines of JSON."""

  def __init__(self, connection: socket.socket, silence: float):
    connection.settimeout(silence)
    self._connection = connection
    self._file = connection.makefile('rb')
    self._lock = threading.Lock()

  def send(self, **message: Any) -> None:
    """Sends a message, unless the connection is gone."""
    with self._lock, contextlib.suppress(OSError, ValueError):
      self._connection.sendall(json.dumps(message).encode() + b'\n')

  def receive(self) -> Message | None:
    """The next message; None if the connection is gone, silent or abused."""
    try:
      line = self._file.readline(_LONGEST)
      found = json.loads(line) if line.endswith(b'\n') else None
    except (OSError, ValueError, RecursionError):
      return None
    return found if isinstance(found, dict) else None

  def close(self) -> None:
    """Ends the connection; `receive` returns None on both sides."""
    with contextlib.suppress(OSError):
      self._connection.shutdown(socket.SHUT_RDWR)
    self._connection.close()


def _beat(line: Line, until: threading.Event, silence: float) -> None:
  while not until.wait(min(_BEAT, silence / 10)):
    line.send(alive=True)


def _proof(token: bytes, once: str, host: int) -> str:
  return hmac.new(token, f'{once} {host}'.encode(), hashlib.sha256).hexdigest()


# ---- host 0 ----


class Host0:
  """Listens for members; use it as a context.

  Attributes:
    events: what members say, in the order in which it arrives.
    members: those that are connected, by host.
  """

  def __init__(self, meeting: Meeting):
    """Raises an OSError if it cannot listen at the address."""
    self.events: queue.Queue[_Event] = queue.Queue()
    self.members: dict[int, Line] = {}
    self._meeting = meeting
    self._listener = socket.create_server(meeting.address)
    self._free = threading.BoundedSemaphore(2 * meeting.hosts + _STRANGERS)
    self._ended = threading.Event()

  def __enter__(self) -> 'Host0':
    threading.Thread(target=self._accept, daemon=True).start()
    return self

  def __exit__(self, *_: Any) -> None:
    for line in [*self.members.values()]:
      line.send(finish=exit_codes.PREEMPTED)  # Unless they have gone.
    self._ended.set()
    self._listener.close()

  def _accept(self) -> None:
    while True:
      try:
        connection, _ = self._listener.accept()
      except OSError:
        return
      if self._free.acquire(blocking=False):
        threading.Thread(
          target=self._listen, args=(connection,), daemon=True
        ).start()
      else:
        connection.close()

  def _listen(self, connection: socket.socket) -> None:
    line = Line(connection, self._meeting.silence)
    try:
      self._talk(line)
    finally:
      line.close()
      self._free.release()

  def _talk(self, line: Line) -> None:
    once = secrets.token_hex(16)
    line.send(once=once)
    hello = line.receive() or {}
    host, proof = hello.get('host'), hello.get('proof')
    if (
      type(host) is not int
      or not 0 <= host < self._meeting.hosts
      or not isinstance(proof, str)
      or not hmac.compare_digest(
        proof.encode(), _proof(self._meeting.token, once, host).encode()
      )
    ):
      line.send(refused=True)
      return
    threading.Thread(
      target=_beat, args=(line, self._ended, self._meeting.silence), daemon=True
    ).start()
    self.events.put((host, {'joined': True}, line))
    while (message := line.receive()) is not None:
      if 'alive' not in message:
        self.events.put((host, message, line))
    self.events.put((host, None, line))


class Decisions:
  """What host 0 decides, from one attempt to the next."""

  def __init__(
    self,
    host0: Host0,
    meeting: Meeting,
    sizes: Sequence[int],
    max_restarts: int,
    last_step: Callable[[], int],
  ):
    """Args: as of `run`; `sizes` are numbers of hosts, from all down."""
    self._host0, self._meeting, self._sizes = host0, meeting, sizes
    self._max_restarts, self._last_step = max_restarts, last_step
    self._failures = 0

  def decide(self) -> None:
    """Runs attempts until one finishes; tells all members the exit code."""
    try:
      code = self._attempts()
    except Exception as error:  # The members would wait forever.
      code = exit_codes.fail(exit_codes.one_line(error), 1)
    for line in self._host0.members.values():
      line.send(finish=code)

  def _attempts(self) -> int:
    number = 0
    while True:
      number += 1
      hosts = self._gathered()
      if hosts is None:
        crew.say(
          f'error: at least {self._sizes[-1]} of {self._sizes[0]} hosts must'
          f' join within {self._meeting.wait:g} s, got'
          f' {sorted(self._host0.members)}.'
        )
        return exit_codes.LOST
      begin = self._last_step()
      code, what = self._attempt(number, hosts)
      if code == 0 or what is None:
        return code
      if code in exit_codes.FINAL:
        crew.say(f'{what}; not restarted: the same command would fail again.')
        return code
      step = self._last_step()
      self._failures = 0 if step > begin else self._failures + 1
      where = f'after step {step}' if step else 'from the beginning'
      if self._failures > self._max_restarts:
        crew.say(
          f'error: gave up after {self._max_restarts} restarts without a newer'
          f' checkpoint. {what}. The run would resume {where}.'
        )
        return code
      crew.say(f'{what}; resuming {where} with the hosts that are there.')

  def _gathered(self) -> list[int] | None:
    """The hosts of the next attempt; None if too few come."""
    deadline = time.monotonic() + self._meeting.wait
    while len(self._host0.members) < self._sizes[0]:
      left = deadline - time.monotonic()
      if left <= 0:
        break
      self._take(left)
    there = sorted(self._host0.members)
    count = next((x for x in self._sizes if x <= len(there)), None)
    return None if count is None or 0 not in there else there[:count]

  def _take(self, seconds: float) -> tuple[int, Message | None]:
    """The next event, which may change who is there."""
    try:
      host, message, line = self._host0.events.get(timeout=seconds)
    except queue.Empty:
      return -1, {}
    members = self._host0.members
    if message and 'joined' in message:
      if old := members.get(host):
        old.close()  # It has come back before its silence was noticed.
      members[host] = line
      return host, None if old else message
    if members.get(host) is not line:
      return -1, {}
    if message is None:
      del members[host]
    return host, message

  def _attempt(self, number: int, hosts: list[int]) -> tuple[int, str | None]:
    """The exit code of an attempt, and what ended it; None if asked to."""
    with socket.create_server((self._meeting.address[0], 0)) as free:
      port = free.getsockname()[1]
    for place, host in enumerate(hosts):
      self._host0.members[host].send(
        start=number, place=place, hosts=len(hosts), port=port
      )
    running, begin = {*hosts}, self._last_step()
    code, what = 0, ''
    while running:
      host, message = self._take(0.5)
      if host in running and (message is None or 'joined' in message):
        running.discard(host)
        what, code = what or f'Host {host} is away', code or exit_codes.LOST
      elif host in running and message and message.get('ended') == number:
        running.discard(host)
        if message.get('asked') and host == 0:
          return _integer(message, 'code'), None
        if (ended := _integer(message, 'code')) and not what:
          said = exit_codes.one_line(str(message.get('what')))[:200]
          what, code = f'{said} on host {host}', ended
      is_return = (
        not what
        and len(self._host0.members) > len(hosts)
        and len(hosts) < self._sizes[0]
        and self._last_step() > begin
      )
      if is_return:
        what, code = 'A host has come back', exit_codes.PREEMPTED
      if what:
        for other in running & {*self._host0.members}:
          self._host0.members[other].send(
            stop=number, kill=code != exit_codes.PREEMPTED
          )
    return code, what


def _integer(message: Message, key: str) -> int:
  """A number that a member tells; 1 if it is none."""
  value = message.get(key)
  return value if type(value) is int and 0 <= value < 256 else exit_codes.LOST


# ---- every host ----


@dataclasses.dataclass(frozen=True)
class Share:
  """The part of an attempt that a host has."""

  place: int
  """Which of the hosts this is, from 0."""
  hosts: int
  port: int
  """Of JAX's coordinator, on host 0."""


class Member:
  """A launcher that does what host 0 says."""

  def __init__(
    self,
    launcher: crew.Launcher,
    meeting: Meeting,
    host: int,
    commands: Callable[[Share], Sequence[Sequence[str]]],
    processes: int,
  ):
    """`commands` are those of the processes of this host."""
    self._launcher, self._meeting, self._host = launcher, meeting, host
    self._commands, self._processes = commands, processes
    self._orders: queue.Queue[Message | None] = queue.Queue()

  def run(self) -> int:
    """Takes part until host 0 ends the run; returns the exit code."""
    while (line := self._joined()) is not None:
      code = self._served(line)
      line.close()
      if code is not None:
        return code
    if self._launcher.is_asked_to_stop:
      return exit_codes.PREEMPTED
    host, port = self._meeting.address
    return exit_codes.fail(
      f'host 0 must answer at {host}:{port} within {self._meeting.wait:g} s and'
      ' know the same token; start its launcher, or check both.'
    )

  def _joined(self) -> Line | None:
    """A connection to host 0; None if it does not come or refuses."""
    deadline = time.monotonic() + self._meeting.wait
    while time.monotonic() < deadline and not self._launcher.is_asked_to_stop:
      with contextlib.suppress(OSError):
        connection = socket.create_connection(self._meeting.address, 5)
        line = Line(connection, self._meeting.silence)
        once = str((line.receive() or {}).get('once'))
        proof = _proof(self._meeting.token, once, self._host)
        line.send(host=self._host, proof=proof)
        first = line.receive()
        if first and 'refused' in first:
          line.close()
          return None
        if first is not None:
          self._orders = queue.Queue()
          self._orders.put(first)
          threading.Thread(
            target=self._listen, args=(line, self._orders), daemon=True
          ).start()
          return line
        line.close()
      time.sleep(0.5)
    return None

  def _listen(self, line: Line, orders: 'queue.Queue[Message | None]') -> None:
    ended = threading.Event()
    beat = line, ended, self._meeting.silence
    threading.Thread(target=_beat, args=beat, daemon=True).start()
    while (message := line.receive()) is not None:
      if 'alive' not in message:
        orders.put(message)
    ended.set()
    orders.put(None)

  def _served(self, line: Line) -> int | None:
    """Follows orders; the exit code, or None if the connection is gone."""
    while True:
      try:
        order = self._orders.get(timeout=0.2)
      except queue.Empty:
        if self._launcher.is_asked_to_stop:
          return exit_codes.PREEMPTED
        continue
      if order is None:
        return None
      if 'finish' in order:
        return _integer(order, 'finish')
      if 'start' in order:
        share = Share(*(_count(order, x) for x in ('place', 'hosts', 'port')))
        end = self._launcher.run(
          self._commands(share),
          tick=functools.partial(self._follow, order['start']),
          first=share.place * self._processes,
        )
        asked = self._launcher.is_asked_to_stop
        line.send(
          ended=order['start'], code=end.code, what=str(end), asked=asked
        )
        if asked and self._host:
          return end.code

  def _follow(self, attempt: int) -> None:
    """Stops the processes of an attempt if host 0 says so, or is gone."""
    with contextlib.suppress(queue.Empty):
      order = self._orders.get_nowait()
      is_meant = order is not None and order.get('stop') == attempt
      if order is None or (is_meant and order.get('kill')):
        self._launcher.kill()
      elif is_meant:
        self._launcher.ask_to_stop()
      if order is None or 'finish' in order:
        self._orders.put(order)


def _count(order: Message, key: str) -> int:
  value = order.get(key)
  if type(value) is not int or not 0 <= value < 65536:
    raise ValueError(f'host 0 must give {key} as a number, got {value!r}.')
  return value

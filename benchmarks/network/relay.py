"""A switch whose frames take some time, for kernels without netem.

`python -m benchmarks.network.relay MILLISECONDS CARD CARD ...` passes the
frames that arrive at a network card on to the card behind which their
destination is, so much later. It prints 'ready' and ends when its standard
input closes. `benchmarks.network.hosts` starts it. It needs root.
"""

import collections
from collections.abc import Iterator
import contextlib
import select
import socket
import struct
import sys
import time

_ALL_PROTOCOLS = 3
_SOL_PACKET, _VNET_HEADER = 263, 15  # Of linux/if_packet.h.
_RECEIVE_BUFFER_FORCE = 33  # Of asm-generic/socket.h.
_BUFFER_BYTES = 1 << 26
# In front of a frame, the kernel's offload state (virtio_net_hdr): segments of
# up to 64 KiB and unfinished checksums pass through as they are.
_HEADER = 10
_TURN = 256  # Frames of one card before the next card is looked at.


def main(milliseconds: str, *cards: str) -> None:
  """Relays until standard input closes."""
  delay = float(milliseconds) / 1e3
  ports = {x.fileno(): x for x in map(_open, cards)}
  behind: dict[bytes, socket.socket] = {}
  # All frames take equally long, so they leave in the order of arrival.
  waiting: collections.deque[tuple[float, socket.socket, bytes]]
  waiting = collections.deque()
  poll = select.poll()
  for number in (sys.stdin.fileno(), *ports):
    poll.register(number, select.POLLIN)
  print('ready', flush=True)
  while True:
    left = 1e3 * (waiting[0][0] - time.monotonic()) if waiting else None
    for number, _ in poll.poll(left and max(left, 0)):
      if number not in ports:
        return
      port = ports[number]
      for frame in _arrived(port):
        behind[frame[_HEADER + 6 : _HEADER + 12]] = port
        waiting.append((time.monotonic() + delay, port, frame))
    while waiting and waiting[0][0] <= time.monotonic():
      _, origin, frame = waiting.popleft()
      known = behind.get(frame[_HEADER : _HEADER + 6])
      for port in (known,) if known else ports.values():
        if port is not origin:
          # A full queue drops frames, as in a switch; TCP sends them again.
          with contextlib.suppress(OSError):
            port.send(frame)


def _open(card: str) -> socket.socket:
  """All that arrives at a card, and a way to send through it."""
  port = socket.socket(
    socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS)
  )
  port.setsockopt(_SOL_PACKET, _VNET_HEADER, struct.pack('i', 1))
  port.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, _BUFFER_BYTES)
  port.bind((card, 0))
  port.setblocking(False)
  return port


def _arrived(port: socket.socket) -> Iterator[bytes]:
  """The frames that wait at a port, without those that it sent itself."""
  # A card that is down has an error, once.
  with contextlib.suppress(OSError):
    for _ in range(_TURN):
      frame, address = port.recvfrom(1 << 17)
      if address[2] != socket.PACKET_OUTGOING:
        yield frame


if __name__ == '__main__':
  main(*sys.argv[1:])

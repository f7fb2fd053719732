"""A PyTorch worker: DDP, dense or with its PowerSGD hook.

    python -m benchmarks.averaging.theirs MODEL COORDINATOR WORKERS ID

Takes the same orders as `benchmarks.averaging.ours`, but one METHOD only, and
KIND is always 'compress'. A step is a backward pass whose gradients already
exist, so DDP's buckets and hooks do what they do in training and nothing else
takes time. With the hook all gradients are one bucket: with several, the order
of messages depends on threads, and workers on gloo deadlock.
"""

import datetime
import os
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed.algorithms import ddp_comm_hooks

from benchmarks.averaging import crew, shapes

_START = 2  # Dense steps before PyTorch's hook compresses.
RANK = 32
_WHOLE_MB = 8192  # One bucket for everything.


class _Given(torch.autograd.Function):
  """A loss with these gradients."""

  @staticmethod
  def forward(ctx, gradients, *leaves):
    ctx.gradients = gradients
    return torch.zeros(())

  @staticmethod
  def backward(ctx, *upstream):
    return None, *ctx.gradients


class _Model(torch.nn.Module):
  """Leaves, and a loss with given gradients."""

  def __init__(self, gradients: list[torch.Tensor]):
    super().__init__()
    self.leaves = torch.nn.ParameterList(map(torch.zeros_like, gradients))

  def forward(self, gradients):
    return _Given.apply(gradients, *self.leaves)


class Worker:
  """Holds its gradients, and the model that averages them."""

  def __init__(self, model: str):
    self.gradients = [torch.randn(s) for s in shapes.matrices(model).values()]
    self.ddp: torch.nn.Module | None = None

  def _start(self, method: str) -> torch.nn.Module:
    """The model, past its dense start. A second DDP in a process hangs."""
    compressed = method == 'powersgd_hook'
    if compressed:
      dist._DEFAULT_FIRST_BUCKET_BYTES = _WHOLE_MB << 20
    self.ddp = torch.nn.parallel.DistributedDataParallel(
      _Model(self.gradients), bucket_cap_mb=_WHOLE_MB if compressed else None
    )
    if compressed:
      hook = ddp_comm_hooks.powerSGD_hook
      state = hook.PowerSGDState(
        None, matrix_approximation_rank=RANK, start_powerSGD_iter=_START
      )
      self.ddp.register_comm_hook(state, hook.powerSGD_hook)
    self.run(method, '', _START + 1)
    return self.ddp

  def run(self, method: str, kind: str, steps: int) -> list[float]:
    """Seconds of each step."""
    del kind
    ddp, seconds = self.ddp or self._start(method), []
    for _ in range(steps):
      ddp.zero_grad()
      begin = time.perf_counter()
      ddp(self.gradients).backward()
      seconds.append(time.perf_counter() - begin)
    return seconds


def join(coordinator: str, workers: int, index: int, minutes: int) -> None:
  """Joins PyTorch's group on one core; no message may take longer."""
  torch.set_num_threads(1)
  os.environ.setdefault('GLOO_SOCKET_IFNAME', 'eth0')
  dist.init_process_group(
    'gloo',
    init_method=f'tcp://{coordinator}',
    world_size=workers,
    rank=index,
    timeout=datetime.timedelta(minutes=minutes),
  )


def main(model: str, coordinator: str, workers: str, index: str) -> None:
  """Joins the other workers and follows orders."""
  answers = crew.claim_output()
  join(coordinator, int(workers), int(index), minutes=10)
  torch.manual_seed(int(index))
  crew.follow(answers, Worker(model).run)
  os._exit(0)  # Threads of gloo may still hold tensors and abort an exit.


if __name__ == '__main__':
  main(*sys.argv[1:])

"""PyTorch training the same LLaMA, on one host, taking steps when ordered to.

    python -m benchmarks.network.links_theirs WORKDIR COORDINATOR WORKERS ID

The name of the folder WORKDIR is one of `METHODS`. Takes the orders of
`benchmarks.averaging.crew`; the answer is the mean and the median of the
seconds per step.
"""

import os
import pathlib
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import (
  post_localSGD_hook,
  powerSGD_hook,
)
from torch.distributed.algorithms.model_averaging import averagers
from torch.distributed.optim import PostLocalSGDOptimizer
from torch.nn import functional

from benchmarks.averaging import crew, theirs
from benchmarks.network import links_ours
from train.config.schema import Config, Model

_OF_DDP = 'ddp', 'powersgd_hook', 'post_local_sgd-30'
_OF_TORCHFT = 'torchft_diloco-30'
METHODS = 'torch_alone', *_OF_DDP, _OF_TORCHFT
_START = 2  # Dense steps before PyTorch's hooks do anything.
_WHOLE_MB = 64  # One bucket for everything, as in benchmarks.averaging.
_BYTES = 256


class _Block(torch.nn.Module):
  """A block of `train.models.llama`."""

  def __init__(self, model: Model):
    super().__init__()
    width, inner = model.width, model.feed_forward
    linear = lambda a, b: torch.nn.Linear(a, b, bias=False)
    self.heads = model.heads
    self.attention_norm = torch.nn.RMSNorm(width, 1e-6)
    self.query, self.key, self.value, self.output = (
      linear(width, width) for _ in range(4)
    )
    self.feed_forward_norm = torch.nn.RMSNorm(width, 1e-6)
    self.gate, self.up = linear(width, inner), linear(width, inner)
    self.down = linear(inner, width)

  def forward(self, x, turn):
    y = self.attention_norm(x)
    split = lambda z: z.unflatten(-1, (self.heads, -1)).transpose(1, 2)
    query, key, value = map(split, (self.query(y), self.key(y), self.value(y)))
    mixed = functional.scaled_dot_product_attention(
      turn(query), turn(key), value, is_causal=True
    )
    x = x + self.output(mixed.transpose(1, 2).flatten(2))
    y = self.feed_forward_norm(x)
    return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class _Llama(torch.nn.Module):
  """`train.models.llama`; returns the loss."""

  def __init__(self, model: Model, time_steps: int):
    super().__init__()
    self.embedding = torch.nn.Embedding(_BYTES, model.width)
    self.blocks = torch.nn.ModuleList(
      _Block(model) for _ in range(model.layers)
    )
    self.norm = torch.nn.RMSNorm(model.width, 1e-6)
    self.head = torch.nn.Linear(model.width, _BYTES, bias=False)
    channels = model.width // model.heads
    speeds = 10_000 ** (-torch.arange(0, channels, 2) / channels)
    angles = torch.outer(torch.arange(time_steps), speeds)
    self.cos, self.sin = angles.cos(), angles.sin()

  def _turn(self, x):
    a, b = x.chunk(2, dim=-1)
    return torch.cat(
      [a * self.cos - b * self.sin, a * self.sin + b * self.cos], dim=-1
    )

  def forward(self, batch):
    x = self.embedding(batch[:, :-1])
    for block in self.blocks:
      x = block(x, self._turn)
    logits = self.head(self.norm(x))
    return functional.cross_entropy(
      logits.flatten(0, 1), batch[:, 1:].flatten()
    )


class Worker:
  """A model that is trained by one method."""

  def __init__(self, method: str, config: Config, place: tuple[str, int, int]):
    """Takes its steps of a start, or a round, with the others.

    `place` is the coordinator's HOST:PORT, the number of workers, and the
    index of this one.
    """
    torch.manual_seed(0)
    self.net = _Llama(config.model, config.data.sequence_length)
    self.clip = config.optimizer.clip_norm
    shape = links_ours.SEQUENCES, config.data.sequence_length + 1
    source = torch.Generator().manual_seed(place[2])
    self.batch = torch.randint(_BYTES, shape, generator=source)
    self.optimizer = torch.optim.AdamW(
      self.net.parameters(), config.optimizer.learning_rate, fused=True
    )
    self.model = self.net
    first = _START + 1
    if method in _OF_DDP:
      self._distribute(method, config.compression.rank)
    elif method == _OF_TORCHFT:
      from benchmarks.network import links_torchft

      first = int(method.partition('-')[2])  # Orders are rounds.
      self.torchft = links_torchft.enter_diloco(
        self.net, self.optimizer, first, place
      )
    self.run(method, '', first)

  def _distribute(self, method: str, rank: int) -> None:
    """Puts DDP around the model, and the method into it."""
    whole = None
    if method == 'powersgd_hook':
      whole = dist._DEFAULT_FIRST_BUCKET_BYTES = _WHOLE_MB << 20
    self.model = model = torch.nn.parallel.DistributedDataParallel(
      self.net, bucket_cap_mb=whole and _WHOLE_MB
    )
    if method == 'powersgd_hook':
      powersgd = powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=rank, start_powerSGD_iter=_START
      )
      model.register_comm_hook(powersgd, powerSGD_hook.powerSGD_hook)
    name, _, every = method.partition('-')
    if name == 'post_local_sgd':
      state = post_localSGD_hook.PostLocalSGDState(
        None, None, _START, post_local_gradient_allreduce=False
      )
      model.register_comm_hook(state, post_localSGD_hook.post_localSGD_hook)
      averager = averagers.PeriodicModelAverager(int(every), _START)
      self.optimizer = PostLocalSGDOptimizer(self.optimizer, averager)

  def run(self, method: str, kind: str, steps: int) -> list[float]:
    """Seconds per step, mean and median."""
    del method, kind
    ends = [time.perf_counter()]
    for _ in range(steps):
      self.optimizer.zero_grad()
      self.model(self.batch).backward()
      torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
      self.optimizer.step()
      ends.append(time.perf_counter())
    return links_ours.mean_and_median(ends)


def main(folder: str, coordinator: str, workers: str, index: str) -> None:
  """Joins the other workers and follows orders."""
  answers = crew.claim_output()
  method = pathlib.Path(folder).name
  place = coordinator, int(workers), int(index)
  if method != _OF_TORCHFT:
    theirs.join(*place, minutes=30)
  config = links_ours.config_of('dense', int(workers))
  crew.follow(answers, Worker(method, config, place).run)
  os._exit(0)  # Threads of gloo may still hold tensors and abort an exit.


if __name__ == '__main__':
  main(*sys.argv[1:])

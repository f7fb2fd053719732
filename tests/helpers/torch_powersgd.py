"""One of two DDP processes with PyTorch's PowerSGD: RANK START_STEP FOLDER.

Needs RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment. Reads
`given.npz` from the folder, 'gradient/NAME' [steps, workers, *shape] and
'q/NAME' [m, r], and writes `RANK.npz`, 'output/NAME' [steps, *shape],
'sent/STEP', the sizes of that step's all-reduces, and 'reported', the numbers
that PyTorch says it sent in all compressed steps.
"""

import collections
import datetime
import os
import pathlib
import sys

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.algorithms import ddp_comm_hooks

powersgd = ddp_comm_hooks.powerSGD_hook


class Given(torch.nn.Module):
  """A model whose gradients are what it is called with."""

  def __init__(self, gradients):
    super().__init__()
    self.leaves = torch.nn.ParameterDict(
      {name: torch.zeros_like(g) for name, g in gradients.items()}
    )

  def forward(self, gradients):
    return sum((self.leaves[name] * g).sum() for name, g in gradients.items())


def hook_with_start(names, starts):
  """PyTorch's hook, which finds its warm start where it would keep it.

  A bucket holds the leaves in an order that DDP decides while it runs.
  """

  def hook(state, bucket):
    index = bucket.index()
    starting = index not in state.q_memory_dict
    if state.iter == state.start_powerSGD_iter and starting:
      leaves = [(p, names[id(p)]) for p in bucket.parameters()]
      pairs = [(p, starts[name]) for p, name in leaves if name in starts]
      numbers = sum(p.shape[0] * q.shape[1] for p, q in pairs)
      state.p_memory_dict[index] = torch.empty(numbers, dtype=pairs[0][0].dtype)
      state.q_memory_dict[index] = torch.cat([q.flatten() for _, q in pairs])
    return powersgd.powerSGD_hook(state, bucket)

  return hook


def record_all_reduces():
  """A list to which the sizes of all later all-reduces are added."""
  sizes, all_reduce = [], dist.all_reduce

  def recorded(tensor, *args, **kwargs):
    sizes.append(tensor.numel())
    return all_reduce(tensor, *args, **kwargs)

  dist.all_reduce = recorded
  return sizes


def main(rank, start_step, folder):
  me = int(os.environ['RANK'])
  given = collections.defaultdict(dict)
  with np.load(folder / 'given.npz', allow_pickle=False) as file:
    for key in file.files:
      kind, name = key.split('/')
      given[kind][name] = torch.from_numpy(file[key])
  mine = {name: g[:, me] for name, g in given['gradient'].items()}
  torch.set_num_threads(1)
  dist.init_process_group('gloo', timeout=datetime.timedelta(seconds=60))
  model = Given({name: g[0] for name, g in mine.items()})
  ddp = torch.nn.parallel.DistributedDataParallel(model)
  # With a rate of 0 PyTorch would take vectors for matrices, too.
  state = powersgd.PowerSGDState(
    None,
    matrix_approximation_rank=rank,
    start_powerSGD_iter=start_step,
    min_compression_rate=1,
    use_error_feedback=True,
    warm_start=True,
    orthogonalization_epsilon=0,
  )
  names = {id(p): name for name, p in model.leaves.items()}
  ddp.register_comm_hook(state, hook_with_start(names, given['q']))
  sizes = record_all_reduces()
  results = collections.defaultdict(list)
  for step in range(len(next(iter(mine.values())))):
    ddp({name: g[step] for name, g in mine.items()}).backward()
    for name, p in model.leaves.items():
      results[f'output/{name}'].append(p.grad.numpy().copy())
    ddp.zero_grad()
    results[f'sent/{step}'] = sizes.copy()
    sizes.clear()
  results['reported'] = state.compression_stats()[2]
  np.savez(folder / f'{me}.npz', **results)
  dist.destroy_process_group()
  # Threads of gloo may still hold tensors, and abort an orderly exit that finds
  # the interpreter gone (github.com/pytorch/pytorch/pull/179291).
  os._exit(0)


if __name__ == '__main__':
  main(int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3]))

"""torchft's DiLoCo for `benchmarks.network.links_theirs`."""

import datetime

import torch
import torch.distributed as dist
import torchft
from torchft import coordination, local_sgd

_PATIENCE = datetime.timedelta(minutes=30)


def enter_diloco(
  net: torch.nn.Module,
  inner: torch.optim.Optimizer,
  every: int,
  place: tuple[str, int, int],
) -> list[object]:
  """Lets `inner` end a round after `every` of its steps.

  Every worker is a replica group of its own. The first one also runs the
  lighthouse, which all of them ask at the end of a round who takes part.
  Tensors are sent together, which torchft does not do by default.

  Args:
    net: the model, equal on all workers.
    inner: its optimizer.
    every: the steps of a round.
    place: HOST:PORT of the lighthouse, which worker 0 runs; how many workers
      there are; and which one this is.

  Returns:
    What has to stay alive as long as the worker does.
  """
  coordinator, workers, index = place
  host, _, port = coordinator.partition(':')
  held: list[object] = []
  if index == 0:
    held.append(coordination.LighthouseServer(f'[::]:{port}', workers))
  store = dist.TCPStore('localhost', 0, is_master=True, wait_for_workers=False)
  outer = torch.optim.SGD(net.parameters(), 0.7, momentum=0.9, nesterov=True)
  manager = torchft.Manager(
    torchft.ProcessGroupGloo(timeout=_PATIENCE),
    load_state_dict=net.load_state_dict,
    state_dict=net.state_dict,
    min_replica_size=workers,
    use_async_quorum=False,
    timeout=_PATIENCE,
    quorum_timeout=_PATIENCE,
    connect_timeout=_PATIENCE,
    rank=0,
    world_size=1,
    store_addr=f'host{index}',
    store_port=store.port,
    lighthouse_addr=f'http://{host}:{port}',
    replica_id=f'worker{index}',
    hostname=f'host{index}',
    init_sync=False,
  )
  diloco = local_sgd.DiLoCo(
    manager, [net], inner, outer, every, use_bucketization=True
  )
  diloco.__enter__()
  return [*held, store, manager, diloco]

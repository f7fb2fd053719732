"""Is PowerSGD what PyTorch's own is? Its hook under DDP, where it is installed.

`make peers` installs PyTorch and runs this.
"""

import os
import pathlib
import sys

import jax
import numpy as np
import pytest

import greedylore_jax as gl
import together
import workers

HELPERS = pathlib.Path(workers.__file__).parent

pytest.importorskip('torch', reason='needs PyTorch: make peers')

N, START, STEPS = 2, 2, 12
# All of different shapes: of equal ones PyTorch moves the second forward.
SHAPES = {
  'bias': (48,),
  'small': (3, 5),  # Would not shrink, so both send it whole.
  'square': (32, 32),
  'tall': (40, 24),
  'wide': (16, 48),
}
LOOPBACK = 'lo0' if sys.platform == 'darwin' else 'lo'


def gradients(dtype):
  """Gradients of all steps, leaves [STEPS, N, *shape]: a part that stays, with
  singular values that fall from 1 to 0.01, and noise, a tenth of it."""
  rng = np.random.default_rng(0)

  def leaf(shape):
    stays = rng.normal(size=shape)
    if len(shape) == 2:
      u, _, vt = np.linalg.svd(stays, full_matrices=False)
      stays = u * np.geomspace(1, 0.01, min(shape)) @ vt
    noise = rng.normal(size=(STEPS, N, *shape))
    return (stays + 0.1 * np.std(stays) * noise).astype(dtype)

  return {name: leaf(shape) for name, shape in SHAPES.items()}


def for_torch(name, x):
  """A leaf [..., *shape] as PyTorch gets it, and back.

  Ours orthogonalizes the factor on the shorter side, PyTorch's that of the
  rows, so a tall leaf goes there as its transpose.
  """
  return np.swapaxes(x, -1, -2) if name == 'tall' else x


def of_torch(rank, grads, starts, folder):
  """What two processes write; grads [steps, N, *shape], starts [b, r]."""
  given = {f'gradient/{k}': for_torch(k, v) for k, v in grads.items()}
  given |= {f'q/{k}': q for k, q in starts.items()}
  np.savez(folder / 'given.npz', **given)
  environment = os.environ | {
    'MASTER_ADDR': '127.0.0.1',
    'MASTER_PORT': str(together.free_port()),
    'WORLD_SIZE': str(N),
    'GLOO_SOCKET_IFNAME': LOOPBACK,
    'CUDA_VISIBLE_DEVICES': '',  # The hook would wait for a GPU called 'cpu'.
  }
  program = HELPERS / 'torch_powersgd.py'
  together.run(
    [[sys.executable, program, rank, START, folder]] * N,
    timeout=120,
    environments=[environment | {'RANK': str(i)} for i in range(N)],
  )
  return [np.load(folder / f'{i}.npz', allow_pickle=False) for i in range(N)]


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
  ('rank', 'dtype', 'tolerance'),
  [
    (2, np.float32, workers.FLOAT32_FEEDBACK),  # There by Gram-Schmidt.
    (4, np.float32, workers.FLOAT32_FEEDBACK),  # There by Householder.
    (4, np.float64, 1e-12),
  ],
)
def test_powersgd_follows_the_hook_of_pytorch(rank, dtype, tolerance, tmp_path):
  """Two dense steps and ten compressed ones, from the same Q.

  The two differ in what they keep. PyTorch orthogonalizes Q before use, and
  builds each worker's error from the mean factor, H_i - P mean_j R_j, where
  ours takes the worker's own, H_i - P R_i. Neither shows in an output: it is
  P P^T mean_i H_i with P a basis of the columns of (mean_i H_i) Q, so it
  depends on Q through the space of its columns only, and on the errors through
  their mean only, which is the same for both. PyTorch keeps errors of dense
  leaves, too; their mean is zero.
  """
  grads = gradients(dtype)
  with jax.enable_x64(dtype == np.float64):
    tx = gl.compress_gradients(
      gl.PowerSGD(rank), workers.AXIS, start_step=START
    )
    params = workers.zeros(SHAPES, dtype)
    state = tx.init(params)
    starts = {
      name: np.asarray(q)[0]
      for name, q in state.compressor_state.items()
      if isinstance(q, jax.Array)
    }
    assert set(starts) == {'square', 'tall', 'wide'}
    plan = gl.plan(gl.PowerSGD(rank), params, num_workers=N, start_step=START)
    theirs, others = of_torch(rank, grads, starts, tmp_path)
    update = workers.simulated(tx, N)
    state = gl.expand(state, N)
    largest = dict.fromkeys(SHAPES, 0.0)
    for step in range(STEPS):
      ours, state = update({k: g[step] for k, g in grads.items()}, state)
      for name in SHAPES:
        want = theirs[f'output/{name}'][step]
        np.testing.assert_array_equal(want, others[f'output/{name}'][step])
        error = workers.relative(for_torch(name, ours[name]), want)
        largest[name] = max(largest[name], error)
  print({name: f'{error:.1e}' for name, error in largest.items()})
  assert max(largest.values()) < tolerance
  check_bytes(plan, theirs)


def check_bytes(plan, theirs):
  """The plan against PyTorch's all-reduces and against what it reports.

  Dense leaves travel there in an all-reduce of their own, here in the first
  round of the factors.
  """
  planned = {
    phase: [numbers for _, numbers in rounds]
    for phase, rounds in plan.rounds.items()
  }
  for step in range(START):
    assert theirs[f'sent/{step}'].tolist() == planned['warmup']
  for step in range(START, STEPS):
    dense, p, q = theirs[f'sent/{step}'].tolist()
    assert [dense + p, q] == planned['compress']
  assert theirs['reported'] == (STEPS - START) * sum(planned['compress'])

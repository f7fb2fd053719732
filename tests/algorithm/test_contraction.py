"""Is the share of energy that is sent at least what is proved?

The proofs are in docs/theory.md.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import greedylore_jax as gl
from greedylore_jax._src.wire.rounds import Each, multiplying

A, B, DRAWS = 12, 20, 400


def matrices():
  rng = np.random.default_rng(0)
  basis = lambda n: np.linalg.qr(rng.normal(size=(n, A)))[0]
  u, v = basis(A), basis(B)
  spectra = {
    'flat': np.ones(A),
    'decaying': 0.7 ** np.arange(A),
    'one large': np.r_[30.0, np.ones(A - 1)],
    'one small': np.r_[np.ones(A - 1), 0.0],
    'two levels': np.r_[np.full(6, 3.0), np.full(6, 1.0)],
    'rank 2': np.r_[1.0, 0.5, np.zeros(A - 2)],
  }
  found = {name: (u * s) @ v.T for name, s in spectra.items()}
  return found | {'diagonal': np.eye(A, B)}


def captured(method, h, state=None):
  """The share of ||H||^2 in the output, for many keys, [DRAWS]."""
  h = jnp.asarray(h, jnp.float32)[None]
  if state is None:
    state = method.init(1, A, B, h.dtype)

  def one(key):
    rounds = multiplying(method.compress(h, state, key), False)
    reply = None
    while True:
      try:
        message = rounds.send(reply)
      except StopIteration as stop:
        left = jnp.sum((h - stop.value[0]) ** 2)
        return 1 - left / jnp.sum(h**2)
      if isinstance(message, Each):
        reply = jax.lax.map(message.function, message.matrices)
      else:
        reply = message, message

  keys = jax.random.split(jax.random.key(1), DRAWS)
  return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(keys))


@pytest.mark.parametrize('name', matrices())
@pytest.mark.parametrize(
  ('method', 'fresh'),
  [
    (gl.RangeFinder(1), 1),
    (gl.RangeFinder(4), 4),
    (gl.RangeFinder(4, warm=0.5), 2),
  ],
)
def test_a_range_finder_captures_its_share_of_any_matrix(name, method, fresh):
  shares = captured(method, matrices()[name])
  # Two standard errors: flat spectra meet the bound with equality.
  margin = 2 * shares.std() / np.sqrt(DRAWS) + 1e-6
  assert shares.mean() >= fresh / A - margin
  if name == 'flat' and method == gl.RangeFinder(4):
    assert shares.mean() == pytest.approx(4 / A, abs=1e-5)
  if name == 'rank 2' and fresh >= 2:
    assert shares.min() > 1 - 1e-5, 'all that there is'


def test_powersgd_can_be_shown_nothing():
  """Q orthogonal to the rows of H: the counterexample."""
  h = matrices()['diagonal']  # Rows are the first A of B unit vectors.
  q = jnp.eye(B)[None, :, A : A + 4]
  assert captured(gl.PowerSGD(4), h, q).max() == pytest.approx(4 / A, abs=1e-5)
  h[:4] = 0  # What orth makes of a zero sketch: the first unit vectors.
  assert captured(gl.PowerSGD(4), h, q).max() < 1e-6

"""The methods in NumPy float64, from the mathematics.

Per matrix: warm-up sends G; a refresh sends H = G + E, keeps the left singular
vectors U of its mean and forgets E; otherwise r columns P of U are chosen, the
update is P mean_i(P^T H_i) and worker i keeps E_i = H_i - P P^T H_i. PowerSGD
and the range finder take P from a sketch of the mean instead and never refresh.
"""

import numpy as np


class Oracle:
  """One matrix on N workers; `step` takes their gradients, [a, b] each."""

  def __init__(self, rank, interval, start, method='greedylore'):
    self.rank, self.interval, self.start = rank, interval, start
    self.method = method
    self.count, self.errors, self.basis = 0, None, None

  def step(self, grads, draws):
    """Returns the update.

    `draws` are the probes, [b, m] or [a, b] (independent), lots, [a], or a
    sketch's columns, [b, r].

    Everything works on the short side; a tall gradient is transposed.
    """
    grads = [np.asarray(g, np.float64) for g in grads]
    tall = grads[0].shape[0] > grads[0].shape[1]
    grads = [g.T if tall else g for g in grads]
    if self.errors is None:
      self.errors = [np.zeros_like(g) for g in grads]
    update = self._step(grads, draws)
    self.count += 1
    return update.T if tall else update

  def _step(self, grads, draws):
    if self.count < self.start:
      return sum(grads) / len(grads)
    h = [g + e for g, e in zip(grads, self.errors, strict=True)]
    if self.method in ('powersgd', 'range'):
      return self._sketch(h, draws)
    if (self.count - self.start) % self.interval == 0:
      mean = sum(h) / len(h)
      self.basis = np.linalg.svd(mean)[0]
      self.errors = [np.zeros_like(x) for x in h]
      return mean
    chosen = self._choose(h, draws)
    p = self.basis[:, chosen]
    factors = [p.T @ x for x in h]
    self.errors = [x - p @ r for x, r in zip(h, factors, strict=True)]
    return p @ (sum(factors) / len(factors))

  def _sketch(self, h, draws):
    """PowerSGD (draws: the first Q) and the range finder (draws: V)."""
    warm = self.method == 'powersgd' and self.basis is not None
    y = [x @ (self.basis if warm else draws) for x in h]
    p = np.linalg.qr(sum(y) / len(y))[0]
    factors = [p.T @ x for x in h]
    self.errors = [x - p @ r for x, r in zip(h, factors, strict=True)]
    mean = sum(factors) / len(factors)
    self.basis = mean.T
    return p @ mean

  def _choose(self, h, draws):
    if self.method == 'fixed':
      return np.arange(self.rank)
    if self.method == 'random':
      scores = draws
    elif self.method == 'independent':
      local = [np.sum((self.basis.T @ x) * draws, axis=1) for x in h]
      scores = (sum(local) / len(local)) ** 2
    else:
      local = [self.basis.T @ (x @ draws) for x in h]
      scores = np.sum((sum(local) / len(local)) ** 2, axis=1)
    return np.argsort(-scores, kind='stable')[: self.rank]

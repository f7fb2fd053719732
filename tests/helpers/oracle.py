"""The methods in NumPy float64, from the mathematics.

A method is a function of the workers' H_i = G_i + E_i, its memory and its
random draws, to (update, what each worker sent of it, memory), with a <= b.
"""

import ml_dtypes
import numpy as np
import scipy.fft

mean = lambda matrices: sum(matrices) / len(matrices)
orth = lambda y: np.linalg.qr(y)[0]


class Oracle:
  """One matrix on N workers; `step` takes their gradients, [a, b] each."""

  def __init__(self, interval, start, compress, refresh=None):
    self.compress, self.refresh = compress, refresh
    self.interval, self.start = interval, start
    self.count, self.errors, self.memory = 0, None, None

  def step(self, grads, draws):
    """The update. `draws` has the random numbers of either phase.

    Warm-up sends G; else the method acts on H = G + E, and E is what is left.
    Everything works on the short side; a tall gradient is transposed.
    """
    grads = [np.asarray(g, np.float64) for g in grads]
    tall = grads[0].shape[0] > grads[0].shape[1]
    grads = [g.T if tall else g for g in grads]
    if self.errors is None:
      self.errors = [np.zeros_like(g) for g in grads]
    since, self.count = self.count - self.start, self.count + 1
    if since < 0:
      update = mean(grads)
    else:
      again = self.interval and since % self.interval == 0
      method = self.refresh if again else self.compress
      h = [g + e for g, e in zip(grads, self.errors, strict=True)]
      draw = draws['refresh' if again else 'compress']
      update, sent, self.memory = method(h, self.memory, draw)
      self.errors = [x - s for x, s in zip(h, sent, strict=True)]
    return update.T if tall else update


def between(h, p, q=None):
  """All H_i projected on the columns of P, and of Q."""
  right = np.eye(h[0].shape[1]) if q is None else q @ q.T
  sent = [p @ p.T @ x @ right for x in h]
  return mean(sent), sent


def best(energies, count):
  return np.argsort(-energies, kind='stable')[:count]


def dense_refresh(h, memory, draw):
  """Everything is sent; all singular vectors of the mean are kept."""
  u, _, vt = np.linalg.svd(mean(h))
  return mean(h), h, (u, vt.T)


def greedylore(rank, independent=False):
  def compress(h, bases, v):
    u = bases[0]
    if independent:
      energies = mean([np.sum((u.T @ x) * v, axis=1) for x in h]) ** 2
    else:
      energies = np.sum(mean([u.T @ x @ v for x in h]) ** 2, axis=1)
    return *between(h, u[:, best(energies, rank)]), bases

  return compress


def subspace(choose):
  """Columns of the basis, chosen by a draw."""
  return lambda h, bases, draw: (*between(h, bases[0][:, choose(draw)]), bases)


def sketched_refresh(h, memory, omega):
  """A basis of what a sketch of the mean spans, and the mean within it."""
  q = orth(mean([x @ omega for x in h]))
  output, sent = between(h, q)
  u = np.linalg.svd(output)[0][:, : q.shape[1]]
  return output, sent, (u, None)


def range_finder(rank, warm=0):
  def compress(h, memory, draw):
    """`draw` are the fresh columns, and the first warm ones."""
    fresh, first = draw
    kept = first if memory is None else memory
    p = orth(mean([x @ np.concatenate([kept, fresh], axis=1) for x in h]))
    output, sent = between(h, p)
    r = p.T @ output
    return output, sent, r[best(np.sum(r**2, axis=1), warm)].T

  return compress


def past_sketches(rank, columns, decay):
  def compress(h, memory, draw):
    """`draw` are Gaussian, and the first Q^T."""
    normal, first = draw
    d, q = (None, first.T) if memory is None else memory
    v = q @ normal[:, :columns]
    v *= np.sqrt(v.shape[0]) / np.linalg.norm(v, axis=0)
    y = mean([x @ v for x in h])
    known = np.max(y**2) / 100 * np.eye(len(y)) if d is None else decay * d
    p = orth((y @ y.T + known) @ normal[:, columns:].T)
    output, sent = between(h, p)
    rest = y - p @ (p.T @ y)
    d = rest @ rest.T + columns * output @ output.T + known
    return output, sent, (d, output.T @ p)

  return compress


def tsr(rank, power_iterations, average):
  """Returns compress and refresh."""

  def find(h, omega):
    q = orth(mean([x @ omega for x in h]))
    for _ in range(power_iterations):
      z = orth(mean([x.T @ q for x in h]))
      q = orth(mean([x @ z for x in h]))
    return q

  def compress(h, bases, draw):
    u, v = bases
    sent = [u @ (u.T @ x @ v) @ v.T for x in h]
    return mean(sent), sent, bases

  def refresh(h, bases, omega):
    if average == 'gradients':
      q = find(h, omega)
    else:
      q = mean([find([x], omega) for x in h])
    u, _, vt = np.linalg.svd(q.T @ mean(h), full_matrices=False)
    return compress(h, (q @ u[:, :rank], vt[:rank].T), None)

  return compress, refresh


def top_columns(count):
  def compress(h, memory, v):
    energies = np.sum(mean([x.T @ v for x in h]) ** 2, axis=1)
    chosen = np.isin(np.arange(h[0].shape[1]), best(energies, count))
    sent = [x * chosen for x in h]
    return mean(sent), sent, None

  return compress


def entries(count, scores_of):
  """The entries of highest score in each worker's own H."""

  def compress(h, memory, draw):
    sent = []
    for x in h:
      keep = best(scores_of(x, draw).ravel(), count)
      sent.append(x * np.isin(np.arange(x.size), keep).reshape(x.shape))
    return mean(sent), sent, None

  return compress


def count_sketch(width, count, scale=1):
  """The entries of the mean that a sketch of it, over a scale, finds."""

  def compress(h, memory, draw):
    shifts, signs = draw  # [rows, blocks] and [n].
    j = np.arange(h[0].size)
    buckets = [(j + shift[j // width]) % width for shift in shifts]
    sketches = [
      mean([np.bincount(t, signs * (x / scale).ravel(), width) for x in h])
      for t in buckets
    ]
    estimates = [x[t] for x, t in zip(sketches, buckets, strict=True)]
    keep = best(np.abs(signs * np.median(estimates, axis=0)), count)
    chosen = np.isin(j, keep).reshape(h[0].shape)
    sent = [x * chosen for x in h]
    return mean(sent), sent, None

  return compress


def split_columns(count):
  """Random columns as they are, and of the others their signs."""

  def compress(h, order, draw):
    chosen = np.isin(np.arange(h[0].shape[1]), order[:count])
    sent = [np.where(chosen, x, signs([x.T], None, None)[0].T) for x in h]
    return mean(sent), sent, order

  return compress, lambda h, order, scores: compress(h, np.argsort(scores), 0)


def signs(h, memory, draw):
  sent = [
    np.where(x < 0, -1, 1) * np.abs(x).mean(axis=1, keepdims=True) for x in h
  ]
  return mean(sent), sent, None


def bfloat16(x):
  return np.float64(np.asarray(x, ml_dtypes.bfloat16))


def in_few_bits(values, bits):
  """Values by falling magnitude, as `ChunkTopK` rounds them."""
  if bits is None:
    return values
  if bits == 16:
    return bfloat16(values)
  magnitudes, signs = np.abs(values), np.where(values < 0, -1, 1)
  if bits > 2:
    s = 2 ** (bits - 1) - 1
    t = bfloat16(magnitudes.max() / s)
    return t * np.clip(np.round(values / t), -s, s)
  size = len(values) if bits == 1 else 16
  begins = range(0, len(values), size)
  return signs * np.concatenate(
    [
      0 * x + bfloat16(x.mean())
      for x in (magnitudes[i:][:size] for i in begins)
    ]
  )


def chunk_top_k(chunk, keep, bits=None, dct=False):
  """The largest entries, or frequencies, of blocks that are padded by zeros."""
  there = lambda x: scipy.fft.dctn(x, norm='ortho') if dct else x
  back = lambda x: scipy.fft.idctn(x, norm='ortho') if dct else x

  def of_block(block):
    x = there(block)
    places = best(np.abs(x).ravel(), keep)
    kept = np.zeros(x.size)
    kept[places] = in_few_bits(x.ravel()[places], bits)
    return back(kept.reshape(x.shape))

  def of_matrix(x):
    sides = [-(-n // -(-n // chunk)) for n in x.shape]
    padded = np.pad(
      x, [(0, -n % m) for n, m in zip(x.shape, sides, strict=True)]
    )
    for i in range(0, x.shape[0], sides[0]):
      for j in range(0, x.shape[1], sides[1]):
        of = np.s_[i : i + sides[0], j : j + sides[1]]
        padded[of] = of_block(padded[of])
    return padded[: x.shape[0], : x.shape[1]]

  def compress(h, memory, draw):
    sent = [of_matrix(x) for x in h]
    return mean(sent), sent, None

  return compress


def threshold_top_k(count, capacity):
  """Returns compress and refresh; memory is the threshold."""

  def only(x, places):
    kept = np.isin(np.arange(x.size), places).reshape(x.shape)
    return x * kept

  def compress(h, threshold, begin):
    sent = []
    for x in h:
      places = np.flatnonzero(np.abs(x) >= threshold)
      places = np.roll(places, -int(begin * len(places)))
      sent.append(only(x, places[:capacity]))
    return mean(sent), sent, threshold

  def refresh(h, threshold, draw):
    chosen = [best(np.abs(x).ravel(), count) for x in h]
    sent = [only(x, places) for x, places in zip(h, chosen, strict=True)]
    smallest = [
      np.abs(x.ravel()[places]).min()
      for x, places in zip(h, chosen, strict=True)
    ]
    return mean(sent), sent, mean(smallest)

  return compress, refresh

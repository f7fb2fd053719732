"""PowerSGD: one power iteration per step, from where the last one ended."""

import dataclasses

from greedylore_jax.compressors import range_finder


@dataclasses.dataclass(frozen=True)
class PowerSGD(range_finder.RangeFinder):
  """Warm-started power iteration on the mean gradient plus error.

  `RangeFinder` whose columns all continue: with H_i = G_i + E_i and Q, [b, r],
  from the step before,

    Y_i = H_i Q                          sent: a * r numbers
    P = orth(mean_i Y_i)
    R_i = P^T H_i                        sent: r * b numbers
    output = P mean_i R_i,   E_i = H_i - P R_i,   Q <- (mean_i R_i)^T.

  There is no dense step and no decomposition. The error is formed from the
  worker's own R_i; the references use the mean, which gives the same outputs.

  Args:
    rank: r, directions sent per matrix and step (at most a is used). Lower
      sends less and approximates worse.
    seed: of the first Q, which is Gaussian.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.PowerSGD(rank=8), 'data', start_step=10)

  References:
    Vogels et al., PowerSGD, arXiv 1905.13727 (2019), Algorithms 1 and 2.
  """

  warm: float = dataclasses.field(default=1.0, init=False, repr=False)

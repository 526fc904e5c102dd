"""Settings of a reproduction."""

DEFAULT_TOLERANCE = 1e-3  # of a metric's value; two CPUs differ by about 1e-5 per epoch

"""Programs that run a few times: compiled without XLA's optimisations, in a third of the time.

Sums in another order differ by 1e-6; a U-Net of eight channels compiles its initial values in 5 s instead of 20, its
update in 9 instead of 16 (one busy core).
"""

import functools

import jax

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})

"""What JAX says of a user's function, told in three lines: what went wrong, where, what to do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from genjax.errors import BadInput, GenjaxError

_TRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.UnexpectedTracerError,
    jax.errors.NonConcreteBooleanIndexError,
)


@contextmanager
def explained(where: str, batch_size: int | None = None, n: int | None = None) -> Iterator[None]:
    """Tell the author of a traced function in three lines what went wrong in it, and in which line of it."""
    try:
        with within_memory(where, batch_size, n):
            yield
    except (GenjaxError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        traced = isinstance(error, _TRACED)
        raise BadInput(
            f"{where}: {'NumPy or Python control flow on a traced value' if traced else told}{_user_line(error)}",
            "losses are traced: use jax.numpy, jnp.where, jax.lax.cond; shapes are fixed"
            if traced
            else "raised by a function of the experiment",
            "run again with --debug for the whole traceback",
        ) from error


@contextmanager
def within_memory(where: str, batch_size: int | None = None, n: int | None = None) -> Iterator[None]:
    """Tell what to do where the memory of a device does not suffice: a smaller batch, or of n samples fewer."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        what = f"{where}: out of memory: {str(error).splitlines()[0][:200]}"
        if n is not None:
            raise BadInput(what, f"parameters and all of --n {n} must fit together", f"--n {max(n // 2, 1)}") from error
        smaller = f"try --batch-size {batch_size // 2}" if batch_size and batch_size > 1 else "a smaller batch"
        raise BadInput(
            what,
            "parameters, optimizer, batch and activations must fit together",
            f"{smaller}, set microbatches in minimize, or use --parallel fsdp",
        ) from error


def _user_line(error: BaseException) -> str:
    """The last line of the traceback that is neither ours, nor an installed package's, nor Python's own."""
    trace, where = error.__traceback__, ""
    others = ("<", *(f"{Path(module).parent}{os.sep}" for module in (__file__, os.__file__)))
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "site-packages" not in name and not name.startswith(others):
            where = f" ({name.rsplit('/', 1)[-1]}, line {trace.tb_lineno}, in {trace.tb_frame.f_code.co_name})"
        trace = trace.tb_next
    return where

"""Diagnostics of latents on normal laws whose answers are known; walks through latents that keep what they should."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.distributions import kl_normal_standard
from genjax.errors import BadInput
from genjax.metrics import latents
from genjax.metrics.latents import Layer, active_units, collapse, diagnoses, diagnosis, kl_of_each, mutual_information
from genjax.samplers.latents import interpolate, interpolate_spherical, tiles, traverse

# -- information: x ~ N(0, I), q(z | x) = N(a x, s^2), so that I(x; z) = 1/2 sum log(1 + a^2 / s^2) ------------------

SLOPE, SPREAD = np.array([1.2, 0.7, 0.0]), np.array([0.8, 0.9, 1.0])
INFORMATION = 0.5 * np.log1p(np.square(SLOPE / SPREAD)).sum()


def drawn(count, seed):
    """Mean, log_var and noise of `count` examples."""
    x, noise = np.random.default_rng(seed).normal(size=(2, count, 3))
    return SLOPE * x, np.broadcast_to(2 * np.log(SPREAD), x.shape), noise


def check_information(estimate):
    """Of 8 examples the estimates stand on their sides of I, by four standard errors; of 2,000 within 0.1 nats of it.

    The lower one never exceeds log N, to which it comes where the posteriors lie apart; both are 0 at the prior.
    """
    few = np.array([estimate(*drawn(8, seed)) for seed in range(1_500)])
    lower, upper = few.mean(0)
    errors = few.std(0) / math.sqrt(len(few))
    assert lower < INFORMATION - 4 * errors[0] and upper > INFORMATION + 4 * errors[1]
    assert lower > 0.6 * INFORMATION and upper < 1.6 * INFORMATION
    many = estimate(*drawn(2_000, 0))
    assert abs(many[0] - INFORMATION) < 0.1 and abs(many[1] - INFORMATION) < 0.1
    apart = 1e4 * np.arange(300.0)[:, None]
    np.testing.assert_allclose(estimate(apart, 0 * apart, 0 * apart + 0.3)[0], math.log(300), rtol=1e-9)
    at_prior = estimate(0 * apart, 0 * apart, np.random.default_rng(0).normal(size=apart.shape))
    np.testing.assert_allclose(at_prior, [0.0, 0.0], atol=1e-9)


def test_mutual_information():
    check_information(mutual_information)


def planted_sum(change):
    def estimate(*given):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(latents, "_log_sum_exp", change(latents._log_sum_exp))
            return mutual_information(*given)

    return estimate


INFORMATION_MUTANTS = {
    "exchanged": lambda *given: mutual_information(*given)[::-1],
    "without log N": lambda m, v, e: np.array(mutual_information(m, v, e)) - math.log(len(m)),
    "own posterior in both": lambda *given: np.full(2, mutual_information(*given).lower),
    "the mean and no sample": lambda m, v, e: mutual_information(m, v, 0 * e),
    "log_var for the standard deviation": lambda m, v, e: mutual_information(m, v, e * np.exp(0.5 * v)),
    "noise of another example": lambda m, v, e: mutual_information(m, v + 0.5, e),
    "greatest for the sum": planted_sum(lambda whole: lambda values: values.max(axis=1)),
    "bits": lambda *given: np.array(mutual_information(*given)) / math.log(2),
}


@pytest.mark.parametrize("mutant", INFORMATION_MUTANTS.values(), ids=INFORMATION_MUTANTS)
def test_mutual_information_rejects(mutant):
    rejects(check_information, mutant)


def test_rows_at_a_time_change_nothing(monkeypatch):
    whole = mutual_information(*drawn(300, 1))
    monkeypatch.setattr(latents, "ROWS", 7)
    np.testing.assert_allclose(mutual_information(*drawn(300, 1)), whole, rtol=1e-12)


def test_information_is_below_the_rate():
    mean, log_var, noise = drawn(2_000, 2)
    assert mutual_information(mean, log_var, noise).upper < kl_of_each(mean, log_var).sum()


# -- rates, active units, collapse -----------------------------------------------------------------------------------


def check_rates(rates):
    mean, log_var, _ = drawn(50, 3)
    np.testing.assert_allclose(rates(mean, log_var), kl_normal_standard(mean, log_var).mean(0), rtol=1e-5)


def test_rates():
    check_rates(kl_of_each)
    rejects(check_rates, lambda mean, log_var: kl_of_each(mean, 2 * log_var))
    rejects(check_rates, lambda mean, log_var: kl_of_each(mean, log_var) * len(mean))
    rejects(check_rates, lambda mean, log_var: kl_of_each(mean, log_var)[::-1])


def check_activity(active):
    """Posterior means of variance 0.012, 0.008, 4 and 0 around any mean: the first and third are active."""
    signs = np.resize([1.0, -1.0], 1_000)[:, None]
    mean = signs * np.sqrt([0.012, 0.008, 4.0, 0.0]) + np.array([5.0, 5.0, 0.0, 5.0])
    np.testing.assert_array_equal(active(mean), [True, False, True, False])


def test_active_units():
    check_activity(active_units)
    rejects(check_activity, lambda mean: np.square(mean).mean(0) > 0.01)
    rejects(check_activity, lambda mean: mean.std(0) > 0.01)
    rejects(check_activity, lambda mean: active_units(mean.T)[:4])
    rejects(check_activity, lambda mean: active_units(mean, 0.1))


def test_collapse_is_named():
    assert collapse(np.ones(3)) == "no posterior collapse: every latent carries something of x"
    assert collapse([False]).startswith("warning: posterior collapse: none of 1 latents carries anything of x")
    partial = collapse(np.arange(50) < 2)
    assert partial.startswith("warning: partial posterior collapse: 48 of 50 latents carry nothing of x: 3, 4,")
    assert partial.endswith("22, ...")


def test_diagnosis_tells_the_numbers():
    mean, log_var, noise = drawn(2_000, 4)
    text = diagnosis(mean, log_var, noise)
    told = mutual_information(mean, log_var, noise)
    assert text.splitlines()[0] == "warning: partial posterior collapse: 1 of 3 latents carries nothing of x: 3"
    assert "active_units 2 of 3" in text and "exact over 2,000 examples" in text
    assert f"{told.lower:.3f}" in text and f"{told.upper:.3f}" in text and f"log N = {math.log(2_000):.3f}" in text
    rate = kl_of_each(mean, log_var)
    assert f"rate {rate.sum():.3f} nats" in text
    assert [line.split()[1] for line in text.splitlines()[-3:]] == [f"{kl:.3f}" for kl in rate]
    nothing = diagnosis(0 * mean, 0 * log_var, noise)
    assert nothing.startswith("warning: posterior collapse: none of 3") and "rate 0.000 nats" in nothing


def check_layers(told):
    """Each layer has its own word, activity and rate, and the information of the one whose posterior is normal."""
    mean, log_var, noise = drawn(2_000, 4)
    text = told(
        {"z1": Layer(mean.var(0), np.array([1.0, 2.0, 6.0]), (mean, log_var, noise)), "z2": Layer([0.0], [2.0])}
    )
    first, second, _, *rest = text.splitlines()
    assert first == "z1: warning: partial posterior collapse: 1 of 3 latents carries nothing of x: 3"
    assert second.startswith("z2: warning: posterior collapse: none of 1 latents")
    one, two = "\n".join(rest).split("\n\n")
    found = mutual_information(mean, log_var, noise)
    assert one.startswith("z1: active_units 2 of 3:") and f"variances: {mean[:, 0].var():.4f} (1), " in one
    assert "rate 3.000 nats, a mean over 3 examples" in one and f"at least {found.lower:.3f} nats" in one
    assert f"at most {found.upper:.3f} (estimate of an upper bound)" in one
    assert two.startswith("z2: active_units 0 of 1:") and "rate 2.000 nats" in two and "information" not in two


def test_layers():
    check_layers(diagnoses)
    change = lambda **new: (
        lambda layers: diagnoses({n: l._replace(**{k: f(l) for k, f in new.items()}) for n, l in layers.items()})
    )
    rejects(check_layers, change(spread=lambda layer: np.sqrt(layer.spread)))
    rejects(check_layers, change(spread=lambda layer: np.sort(layer.spread)))
    rejects(check_layers, change(spread=lambda layer: np.full(len(layer.spread), np.mean(layer.rate))))  # judged by it
    rejects(check_layers, change(rate=lambda layer: np.asarray(layer.rate) / len(layer.spread)))
    rejects(check_layers, change(posterior=lambda layer: ()))
    rejects(check_layers, lambda layers: diagnoses(dict(zip(layers, [*layers.values()][::-1], strict=True))))


def test_many_latents_are_not_all_listed():
    text = diagnoses({"z": Layer(np.arange(500.0), np.ones(3))})
    assert text.splitlines()[0].endswith("1 of 500 latents carries nothing of x: 1")
    assert text.splitlines()[3].count("(") == 10 and "499.0000 (500), 498.0000 (499)" in text


# -- walks -----------------------------------------------------------------------------------------------------------

FIRST, LAST = np.random.default_rng(5).normal(size=(2, 4, 16)).astype(np.float32)


def check_arc(walk):
    """Nine points: the ends exactly, norms in equal steps, and equal angles from one to the next: 1e-4."""
    points = np.float64(walk(FIRST, LAST, 9))
    np.testing.assert_allclose(points[[0, -1]], [FIRST, LAST], atol=1e-5)
    norms = np.linalg.norm(points, axis=-1)
    np.testing.assert_allclose(np.diff(norms, axis=0), np.broadcast_to((norms[-1] - norms[0]) / 8, (8, 4)), atol=1e-4)
    unit = points / norms[..., None]
    angles = np.arccos((unit[1:] * unit[:-1]).sum(-1))
    np.testing.assert_allclose(angles, np.broadcast_to(angles.mean(0), angles.shape), atol=1e-4)
    whole = np.arccos((unit[0] * unit[-1]).sum(-1))
    np.testing.assert_allclose(angles.sum(0), whole, atol=1e-3)  # in one plane, and no way round


def of_raw_ends(first, last, steps):
    """As White writes it, for ends of equal norm."""
    angle = np.arccos((first * last).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(last, axis=-1))
    share, angle = np.linspace(0, 1, steps).reshape(-1, 1, 1), angle[None, :, None]
    return (np.sin((1 - share) * angle) * first + np.sin(share * angle) * last) / np.sin(angle)


def test_spherical_interpolation():
    check_arc(interpolate_spherical)
    rejects(check_arc, interpolate)
    rejects(check_arc, of_raw_ends)
    rejects(check_arc, lambda first, last, steps: interpolate_spherical(last, first, steps))
    rejects(check_arc, lambda first, last, steps: interpolate_spherical(first, -last, steps))


def test_spherical_interpolation_keeps_equal_norms():
    unit = [5.0 * end / np.linalg.norm(end, axis=-1, keepdims=True) for end in (FIRST, LAST)]
    norms = np.linalg.norm(interpolate_spherical(*unit, 11), axis=-1)
    np.testing.assert_allclose(norms, np.full((11, 4), 5.0), rtol=1e-5)


@pytest.mark.parametrize("last", [FIRST, -FIRST, 0 * FIRST, 2 * FIRST], ids=["equal", "opposite", "zero", "parallel"])
def test_where_no_arc_is_the_shortest_the_walk_is_straight(last):
    np.testing.assert_allclose(interpolate_spherical(FIRST, last, 5), interpolate(FIRST, last, 5), atol=1e-5)


def check_traversal(walk):
    """Row by row, one dimension takes the values from -2 to 2 and no other moves."""
    z = jnp.array([5.0, 6.0, 7.0])
    found = np.asarray(walk(lambda z: z, z, (2, 0), 2.0, 5)).reshape(2, 5, 3)
    expected = np.broadcast_to(z, (2, 5, 3)).copy()
    expected[0, :, 2] = expected[1, :, 0] = np.linspace(-2, 2, 5)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_traversal_touches_only_its_dimension():
    check_traversal(traverse)
    check_traversal(jax.jit(traverse, static_argnums=(0, 2, 3, 4)))
    rejects(check_traversal, lambda decode, z, *rest: traverse(decode, 0 * z, *rest))
    rejects(check_traversal, lambda decode, z, dims, *rest: traverse(decode, z, dims[::-1], *rest))
    rejects(check_traversal, lambda decode, z, dims, extent, steps: traverse(decode, z, dims, extent / 2, steps))
    added = lambda decode, z, *rest: traverse(decode, 0 * z, *rest) + z[None]
    rejects(check_traversal, added)


def check_tiles(lay):
    images = np.random.default_rng(6).normal(size=(6, 2, 3, 1)).astype(np.float32)
    rows = [np.concatenate(images[start : start + 3], axis=1) for start in (0, 3)]
    np.testing.assert_array_equal(lay(images, 3)[0], np.concatenate(rows, axis=0))
    enlarged = np.kron(np.concatenate(rows, axis=0)[..., 0], np.ones((2, 2), np.float32))
    np.testing.assert_array_equal(lay(images, 3, 2)[0, ..., 0], enlarged)


def test_tiles():
    check_tiles(tiles)
    rejects(check_tiles, lambda images, columns, *scale: tiles(images, 2, *scale))
    rejects(check_tiles, lambda images, columns, *scale: tiles(images[::-1], columns, *scale))
    rejects(check_tiles, lambda images, columns, *scale: tiles(images, columns))


# -- bad input -------------------------------------------------------------------------------------------------------

BAD = {
    r"mean \[3, 2\], log_var \[3, 1\]": lambda: kl_of_each(np.zeros((3, 2)), np.zeros((3, 1))),
    r"mean has shape \[1, 2\]": lambda: active_units(np.zeros((1, 2))),
    r"mean \[1, 2\], log_var \[1, 2\]\nallowed: \[N, D\] both, of at least 2 examples": lambda: diagnosis(
        *np.zeros((3, 1, 2))
    ),
    r"mean \[3, 2\], noise \[2, 2\]": lambda: mutual_information(*np.zeros((2, 3, 2)), np.zeros((2, 2))),
    "posteriors that are not finite": lambda: diagnosis(
        *np.zeros((1, 3, 2)), np.full((3, 2), np.nan), np.zeros((3, 2))
    ),
    "posterior means that are not finite": lambda: active_units([[np.nan], [0.0]]),
    r"of a layer: \[0\]\nallowed: spread": lambda: diagnoses({"z": Layer([], [1.0])}),
    r"of a layer: \[2\], not finite": lambda: diagnoses({"z": Layer([0.1], [1.0, np.nan])}),
    r"active has shape \[0\]": lambda: collapse([]),
    r"from \[2\] to \[3\] in steps = 4": lambda: interpolate(jnp.zeros(2), jnp.zeros(3), 4),
    r"in steps = 1\nallowed: .* at least 2 points": lambda: interpolate_spherical(jnp.zeros(2), jnp.zeros(2), 1),
    r"z \[2\], dims = \(2,\)": lambda: traverse(lambda z: z, jnp.zeros(2), [2]),
    "extent = -1.0": lambda: traverse(lambda z: z, jnp.zeros(2), [0], extent=-1.0),
    r"images \[3, 1, 1, 1\], columns = 2": lambda: tiles(jnp.zeros((3, 1, 1, 1)), 2),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(BadInput, match=message) as caught:
        BAD[message]()
    assert len(caught.value.lines) <= 3

"""Inverse autoregressive flows: log-determinants against Jacobians, inverses, densities that integrate to one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from planted import rejects

from genjax.distributions.flows import Flow, composed, flowed, inverse_autoregressive
from genjax.distributions.latent import diagonal_normal, standard_normal
from genjax.errors import BadInput
from genjax.models import iaf as networks
from genjax.models.iaf import AutoregressiveNet, even_masking, iaf, iaf_nets, init_iaf

KEY, DIMS = jax.random.key(0), 5
CONTEXT = jax.random.normal(jax.random.key(1), (3, 4))
Z = jax.random.normal(jax.random.key(2), (2, 3, DIMS))


def wild(params, scale=0.3):
    """Parameters far from small initial values, so that gates and shifts differ everywhere."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    return jax.tree.unflatten(tree, [scale * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


def built(steps=3, dims=DIMS, context=CONTEXT, widths=(12, 12)):
    nets = iaf_nets(steps, dims, widths)
    return iaf(nets, wild(init_iaf(nets, KEY, context)), context)


def check_flow(flow):
    """log |det| = that of autodiff's Jacobian, per example; the inverse gives z back, and the same log |det|; 1e-3."""
    y, log_det = jax.jit(flow.forward)(Z)
    assert y.shape == Z.shape and log_det.shape == Z.shape[:-1]
    whole = jax.jit(jax.jacrev(lambda z: flow.forward(z)[0]))(Z).reshape(6, DIMS, 6, DIMS)
    for i in range(6):
        assert not np.any(np.delete(np.asarray(whole[i]), i, axis=1)), "examples mix"
        sign, exact = np.linalg.slogdet(np.float64(whole[i, :, i]))
        assert sign == 1.0
        np.testing.assert_allclose(log_det.reshape(-1)[i], exact, atol=1e-3)
    assert np.ptp(log_det) > 0.5, "the volume changes alike everywhere: nothing is tested"
    back, again = jax.jit(flow.inverse)(y)
    np.testing.assert_allclose(back, Z, atol=1e-3)
    np.testing.assert_allclose(again, log_det, atol=1e-3)


def test_flow():
    check_flow(built())
    check_flow(built(steps=1))


def test_one_step_is_triangular_in_its_order():
    """Column e of the Jacobian reaches row d only where e does not come after d; and some that come before do reach."""
    for backwards in (False, True):
        net = AutoregressiveNet(DIMS, (12,), backwards)
        order = even_masking(DIMS, (12,), backwards).order
        own = wild(net.init(KEY, Z, CONTEXT))
        flow = inverse_autoregressive(lambda z, net=net, own=own: net.apply(own, z, CONTEXT[:1]), order)
        jacobian = np.asarray(jax.jacrev(lambda z, flow=flow: flow.forward(z[None])[0][0])(Z[0, 0]))
        later = order[None, :] > order[:, None]
        assert not np.any(jacobian[later])
        assert np.all(jacobian[~later] != 0.0)


def sloppy(z, net=None, own=None):
    """A net that sees its own dimension."""
    m, s = net.apply(own, z, CONTEXT)
    return m, s + z


def mutants():
    nets = iaf_nets(3, DIMS, (12, 12))
    params = wild(init_iaf(nets, KEY, CONTEXT))
    orders = [even_masking(DIMS, (12, 12), net.backwards).order for net in nets]
    call = lambda net, own: lambda z: net.apply(own, z, CONTEXT)
    steps = [inverse_autoregressive(call(n, p), o) for n, p, o in zip(nets, params, orders, strict=True)]
    whole = composed(steps)
    one = steps[0]
    gate = lambda z: jax.nn.sigmoid(call(nets[0], params[0])(z)[1])
    return {
        "a mask that is not strict": inverse_autoregressive(lambda z: sloppy(z, nets[0], params[0]), orders[0]),
        "sign of the log-determinant": Flow(lambda z: (whole.forward(z)[0], -whole.forward(z)[1]), whole.inverse),
        "the last step's log-determinant lost": Flow(
            lambda z: (whole.forward(z)[0], composed(steps[:2]).forward(z)[1]), whole.inverse
        ),
        "sum of gates, not of their logarithms": Flow(lambda z: (one.forward(z)[0], gate(z).sum(-1)), one.inverse),
        "steps inverted in the order of forward": Flow(
            whole.forward, composed([Flow(s.inverse, s.forward) for s in steps]).forward
        ),
        "inverted in the opposite order of dimensions": Flow(
            one.forward, inverse_autoregressive(call(nets[0], params[0]), orders[1]).inverse
        ),
    }


def test_flow_rejects():
    for name, mutant in mutants().items():
        print(name)
        rejects(check_flow, mutant)


# -- what a flow carries -----------------------------------------------------------------------------------------------

GRID = np.linspace(-9.0, 9.0, 181)
PLANE = jnp.float32(np.stack(np.meshgrid(GRID, GRID, indexing="ij"), -1)).reshape(-1, 1, 2)


def posterior():
    """A posterior of one example in two dimensions, bent by two steps."""
    nets, context = iaf_nets(2, 2, (8,)), CONTEXT[:1]
    flow = iaf(nets, wild(init_iaf(nets, KEY, context), 1.0), context)
    return flowed(diagonal_normal(jnp.array([[0.3, -0.5]]), jnp.array([[0.4, -0.3]])), flow)


def check_law(law):
    """Integral 1 within 1e-3; a sample's density the same from `draw` and `log_prob`; and samples where the density is.

    8,000 samples in the cells of the plane that hold a fair share of them: chi-square, p > 1e-4.
    """
    log_p = np.float64(jax.jit(law.log_prob)(PLANE))[:, 0].reshape(181, 181)
    cell = 0.1**2
    assert abs(np.exp(log_p).sum() * cell - 1.0) < 1e-3
    z, log_prob = jax.jit(lambda key: law.draw(key, 8_000))(KEY)
    assert z.shape == (8_000, 1, 2)
    np.testing.assert_allclose(log_prob[:200], law.log_prob(z[:200]), atol=1e-3)
    edges = np.linspace(-9.05, 9.05, 182)[::7]  # nodes of the grid are the middles of cells 0.1 wide
    expected = np.add.reduceat(np.add.reduceat(np.exp(log_p) * cell, np.arange(0, 181, 7), 0), np.arange(0, 181, 7), 1)
    seen, *_ = np.histogram2d(*np.float64(z[:, 0]).T, bins=[np.append(edges, 9.05)] * 2)
    often = expected * 8_000 > 20
    counts = np.append(seen[often], seen[~often].sum() + 8_000 - seen.sum())
    share = np.append(expected[often], 1.0 - expected[often].sum())
    assert often.sum() > 10
    assert scipy.stats.chisquare(counts, share / share.sum() * 8_000).pvalue > 1e-4


def test_posterior_with_a_flow():
    check_law(posterior())


def test_posterior_with_a_flow_rejects():
    law = posterior()
    half = lambda key, *n: (law.draw(key, *n)[0] * 0.9, law.draw(key, *n)[1])
    plain = standard_normal(2)
    rejects(check_law, law._replace(log_prob=lambda z: law.log_prob(z) + 0.05))
    rejects(check_law, law._replace(draw=lambda key, *n: (law.draw(key, *n)[0], law.draw(key, *n)[1] + 0.05)))
    rejects(check_law, law._replace(draw=half))
    rejects(check_law, law._replace(log_prob=plain.log_prob))


def test_no_steps_are_the_identity():
    flow = composed([])
    y, log_det = flow.forward(Z)
    np.testing.assert_array_equal(y, Z)
    np.testing.assert_array_equal(log_det, np.zeros((2, 3)))


def test_a_step_starts_near_the_identity_and_every_example_has_its_context():
    nets = iaf_nets(1, DIMS, (12,))
    flow = iaf(nets, init_iaf(nets, KEY, CONTEXT), CONTEXT)
    y, log_det = flow.forward(jnp.broadcast_to(Z[:1, :1], (1, 3, DIMS)))
    assert np.abs(np.asarray(y) - np.asarray(Z[0, 0])).max() < 1.0 and np.all(log_det > -2.0)
    assert not np.allclose(y[0, 0], y[0, 1], atol=1e-3)


def test_one_dimension_has_nothing_before_it():
    with pytest.raises(BadInput, match="dims = 1"):
        networks.even_masking(1, (4,))

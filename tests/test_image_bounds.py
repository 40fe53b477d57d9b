"""What the experiments on images print as bounds: all images of a few pixels, planted factors in the experiments."""

import jax.numpy as jnp
import numpy as np
import pytest
from binary_images import IMAGES
from bounds import Setting, check_bounds, check_means, check_sums, drawn, edited, every_image, pictures
from planted import rejects

from genjax.distributions.latent import distribution, normal_mixture
from genjax.models.iaf import iaf
from genjax.models.priors import exemplar_prior

SHAPE, TWO, SMALL = (2, 3, 1), (1, 2, 1), {"latents": 2, "width": 4, "batch_size": 4}
NORMAL = {  # a posterior about as wide as the prior, elsewhere
    "mean/kernel": lambda leaf: 0.4 * leaf,
    "log_var/kernel": lambda leaf: 0.1 * leaf,
    "log_var/bias": lambda leaf: 0.2 * leaf + 0.5,
}
LOW = {"top_decoder/log_var/bias": lambda leaf: 0.2 * leaf}  # p(z1 | z2) of two layers, not wider than q
FLOW = {  # gates mostly open
    "s/kernel": lambda leaf: 0.3 * leaf,
    "s/bias": lambda leaf: 0.2 * leaf + 2.5,
    "log_var/bias": lambda leaf: 0.2 * leaf + 1.0,
}
LOGISTIC = {  # a location and a log scale of each pixel
    "output/kernel": lambda leaf: 0.3 * leaf,
    "output/bias": lambda leaf: 0.3 * leaf + np.resize([0.0, 1.0], leaf.shape),
}


def remembered(module, state):
    """The exemplars are all eight images, encoded as they are now; no x is one of them."""
    images = pictures(2, SHAPE, stored=256).train.arrays["image"] / np.float32(255)
    means = module.network(1, 2, 4).apply(state.params["vae"], images, method="encode")[0]
    batch = {"exemplar": images, "exemplar_row": np.arange(8), "row": np.full(64, 100)}
    return batch, state._replace(carry=np.asarray(means))


BINARY = {"image": IMAGES}
IWAE = Setting(
    BINARY,
    {"SHAPE": SHAPE, "mnist": lambda: pictures(256, SHAPE), "mnist_dynamic": lambda: pictures(2, SHAPE)},
    {**SMALL, "passes": 1, "held_out": 2},
    {**NORMAL, **LOW},
)
FASHION = Setting(
    BINARY,
    {"SHAPE": SHAPE, "fashion_mnist_dynamic": lambda: pictures(2, SHAPE, stored=256)},
    {**SMALL, "warm_up": 1, "epochs": 1, "pseudo_inputs": 3, "exemplars": 8},
    {
        **NORMAL,
        **LOW,
        "mean/kernel": lambda leaf: 0.2 * leaf,
        "prior/params/images": lambda leaf: 0.5 + 0.3 * leaf,
        "prior": lambda leaf: 0.1 * leaf,
    },
    0.7,
)
DEEP = Setting(
    {"image": every_image(2, (2, 2, 1))},
    {"SHAPE": (2, 2, 1), "SIDES": (1, 2), "binarized_mnist": lambda: pictures(2, (2, 2, 1))},
    {"width": 4, "latents": 1, "blocks": (1, 1), "batch_size": 4},
    {"posterior/conv_3/bias": lambda leaf: leaf + np.float32([0.5, 0.3])},
    0.3,
)
LABELS = np.repeat(np.arange(3), 16)
CONDITIONAL = Setting(
    {"image": np.tile(every_image(4, TWO), (3, 1, 1, 1)), "label": LABELS},
    {"digits": lambda: pictures(4, TWO, label=np.arange(8, dtype=np.int32) % 3)},
    SMALL,
    {**NORMAL, **LOGISTIC},
    group=LABELS,
)
SMALLER = {"batch": {"image": every_image(17, TWO)}, "edits": (("(8, 8, 1)", "(1, 2, 1)"),)}
DIGITS = {"digits": lambda: pictures(17, TWO, label=np.arange(8, dtype=np.int32) % 2)}
IAF = Setting(names=DIGITS, fields={**SMALL, "flows": 2}, rules={**NORMAL, **FLOW, **LOGISTIC}, **SMALLER)
VAE = Setting(names=DIGITS, fields=SMALL, rules={**NORMAL, **LOGISTIC}, **SMALLER)
ANOMALY = Setting(
    names={**DIGITS, "placements": lambda normal, anomalous: anomalous},  # the scores themselves
    fields={**SMALL, "held_out": 1},
    rules={**NORMAL, **LOGISTIC},
    test="auroc",
    **SMALLER,
)
CASES = {
    "one layer": ("iwae_mnist", IWAE, {}),
    "two layers, k = 2": ("iwae_mnist", IWAE, {"layers": 2, "k": 2}),
    "normal prior": ("vae_fashion", FASHION, {}),
    "HVAE": ("vae_fashion", FASHION, {"layers": 2}),
    "VampPrior": ("vae_fashion", FASHION, {"prior": "vamp"}),
    "exemplar prior": ("vae_fashion", FASHION._replace(more=remembered), {"prior": "exemplar"}),
    "top-down": ("vdvae_mnist", DEEP, {}),
    "conditional": ("conditional_vae", CONDITIONAL, {}),
    "digits": ("vae_digits", VAE, {}),
    "inverse autoregressive flow": ("iaf_digits", IAF, {}),
    "anomalies": ("vae_anomaly", ANOMALY, {}),
}


def found(folder, case, *edits, names=(), **how):
    name, setting, fields = CASES[case]
    setting = setting._replace(names={**setting.names, **dict(names)})
    return drawn(folder, name, setting, edits, **fields, **how)


LONG = ("two layers, k = 2", "top-down")


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in LONG)) for case in CASES])
def test_what_is_reported_bounds_the_probabilities(tmp_path, case):
    _, setting, fields = CASES[case]
    check_bounds(found(tmp_path, case), setting.group, "two" if "k" in fields else "elbo")


def test_an_edit_that_the_file_has_no_place_for_is_no_planted_bug(tmp_path):
    with pytest.raises(LookupError, match="does not contain 'log_ratio'"):
        edited(tmp_path, "iwae_mnist", ("log_ratio", "log_p"))


def check_fifty(folder, *edits):
    check_sums(found(folder, "one layer", *edits, what=("neg_iwae_50",))["neg_iwae_50"])


def test_fifty_samples_of_the_validation(tmp_path):
    check_fifty(tmp_path)
    rejects(check_fifty, tmp_path, ('"neg_iwae_50": negative_iwae(log_w)', '"neg_iwae_50": -log_w.max(axis=0)'))


def check_scores(folder, *edits):
    scores = found(folder, "anomalies", *edits, what=("final", "elbo"))
    check_means(scores["final"], scores["elbo"])


def test_the_score_of_an_anomaly_is_its_bound(tmp_path):
    check_scores(tmp_path)
    rejects(
        check_scores,
        tmp_path,
        ("kl_normal_standard(mean, log_var).sum(axis=-1)\n        neg", "0.5 * log_q[0]\n        neg"),
    )


def check_gradients_of_one_bound(folder, gradient, *edits):
    """Of the same draws, the loss is the same number, however its gradient is estimated."""
    values = [
        found(folder, "two layers, k = 2", *edits, what=("loss",), draws=100, gradient=name)["loss"]
        for name in ("iwae", gradient)
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)


@pytest.mark.parametrize("gradient", ["dreg", "stl"])
def test_every_gradient_of_iwae_mnist_is_of_the_same_bound(tmp_path, gradient):
    check_gradients_of_one_bound(tmp_path, gradient)
    half = ("sum(log_p) - sum(path_log_probs(", "0.5 * sum(log_p) - 0.5 * sum(path_log_probs(")
    rejects(check_gradients_of_one_bound, tmp_path, gradient, half)


def still(flow):
    """A flow that moves as it did, but says that it keeps the volume."""
    return flow._replace(forward=lambda z: (flow.forward(z)[0], jnp.zeros(z.shape[:-1])))


def louder(law, count):
    """A mixture without its 1 / K."""
    log_prob = lambda z: law.log_prob(z) + np.float32(np.log(count))
    return distribution(law.sample, log_prob)


SUMS, ELBO, LOSS = ("two",), ("elbo", "one"), ("loss", "elbo")
LIKELY = "fit = lambda z: likelihood.log_prob(decode(state.params, z, "
PLANTED = {
    "half a log ratio": (
        "one layer",
        SUMS,
        [("fit + sum(log_p) - sum(log_q)", "fit + 0.5 * (sum(log_p) - sum(log_q))")],
    ),
    "half a log ratio of two layers": (
        "two layers, k = 2",
        SUMS,
        [("fit + sum(log_p) - sum(log_q)", "fit + 0.5 * (sum(log_p) - sum(log_q))")],
    ),
    "half a rate": ("normal prior", SUMS, [("[q - p for q, p", "[0.5 * (q - p) for q, p")]),
    "half a rate below": (
        "HVAE",
        SUMS,
        [("return fit, [q - p for", "return fit, [q - p if q is log_q[0] else 0.5 * (q - p) for")],
    ),
    "half a rate in training": ("normal prior", LOSS, [("sum(rates), beta)", "0.5 * sum(rates), beta)")]),
    "half a rate in the validation": (
        "normal prior",
        ELBO,
        [("negative_elbo(fit, sum(rates))", "negative_elbo(fit, 0.5 * sum(rates))")],
    ),
    "a VampPrior without 1 / K": (
        "VampPrior",
        SUMS,
        [],
        {"normal_mixture": lambda m, v: louder(normal_mixture(m, v), 3)},
    ),
    "exemplars without 1 / M": (
        "exemplar prior",
        SUMS,
        [],
        {"exemplar_prior": lambda m, *a: louder(exemplar_prior(m, *a), 8)},
    ),
    "half a log ratio of all grids": ("top-down", SUMS, [("fit + down.log_ratio", "fit + 0.5 * down.log_ratio")]),
    "half a rate of all grids": (
        "top-down",
        ELBO,
        [
            ("images), down.rate.sum", "images), 0.5 * down.rate.sum"),
            ('"image"]), down.rate.sum', '"image"]), 0.5 * down.rate.sum'),
        ][1:],
    ),
    "half a rate given the label": ("conditional", ELBO, [('"image"]), kl_normal', '"image"]), 0.5 * kl_normal')]),
    "half a log ratio given the label": (
        "conditional",
        SUMS,
        [
            (
                "normal_log_weights(fit, mean, log_var, key, n)\n",
                "0.5 * normal_log_weights(fit, mean, log_var, key, n) + 0.5 * fit(mean[None])\n",
            )
        ],
    ),
    "another label": ("conditional", ELBO, [(LIKELY + 'batch["label"])', LIKELY + '0 * batch["label"])')]),
    "half a rate of the flow": (
        "inverse autoregressive flow",
        SUMS,
        [("fit, log_q - prior.log_prob(z)", "fit, 0.5 * (log_q - prior.log_prob(z))")],
    ),
    "the flow's volume forgotten": (
        "inverse autoregressive flow",
        SUMS,
        [],
        {"iaf": lambda *given: still(iaf(*given))},
    ),
    "half a log ratio of a score": (
        "anomalies",
        SUMS,
        [("fit + prior.log_prob(z) - log_q", "fit + 0.5 * (prior.log_prob(z) - log_q)")],
    ),
    "half a rate of the digits": ("digits", ELBO, [("rate = kl_normal", "rate = 0.5 * kl_normal")]),
    "half a rate of a score": ("anomalies", ELBO, [('"image"]), kl_normal', '"image"]), 0.5 * kl_normal')]),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_bounds_reject(tmp_path, planted):
    case, what, edits, *names = PLANTED[planted]
    values = found(tmp_path, case, *edits, names=names[0] if names else (), what=what)
    if what == SUMS:
        rejects(check_sums, values["two"], CASES[case][1].group)
    else:
        ours, theirs = (values[name] if values[name].ndim == 2 else values[name][:, None] for name in what)
        rejects(check_means, ours, theirs if what == ELBO else theirs.mean(axis=1, keepdims=True))

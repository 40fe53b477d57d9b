"""Convolutional GAN networks, the small classifier, and features of a run of it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import rejects

from genjax.cli import main
from genjax.errors import BadInput
from genjax.feature_net import classifier_features, classifier_labels
from genjax.metrics.features import about
from genjax.models.classifier import Classifier, classifier_of
from genjax.models.gan import ConvCritic, ConvGenerator

KEY, EXPERIMENTS = jax.random.key(0), Path(__file__).parent.parent / "experiments"
X, LABEL = jax.random.normal(KEY, (6, 8, 8, 1)), jnp.array([0, 1, 2, 0, 1, 2])


def check_projection(critic_of):
    """The label adds v_y . phi and nothing else: the rows of v by hand, phi from psi's own gradient."""
    critic = critic_of(ConvCritic((4, 6), 5, classes=3))
    params = ConvCritic((4, 6), 5, classes=3).init(KEY, X, LABEL)
    plain = ConvCritic((4, 6), 5)
    own = {"params": {name: part for name, part in params["params"].items() if name != "v"}}
    psi = lambda kernel: plain.apply(
        {"params": {**own["params"], "psi": {**own["params"]["psi"], "kernel": kernel}}}, X
    )
    phi = jax.jacobian(psi)(params["params"]["psi"]["kernel"])[..., 0]
    v = np.asarray(params["params"]["v"]["kernel"])[np.asarray(LABEL)]
    np.testing.assert_allclose(critic(params, X, LABEL), plain.apply(own, X) + np.sum(phi * v, axis=1), atol=1e-5)
    assert np.abs(np.sum(phi * v, axis=1)).max() > 0.05


def test_projection():
    check_projection(lambda critic: critic.apply)
    rejects(check_projection, lambda critic: lambda params, x, y: critic.apply(params, x, (y + 1) % 3))
    rejects(check_projection, lambda critic: lambda params, x, y: critic.apply(params, x, y) + 0.1 * y)
    rejects(check_projection, lambda critic: lambda params, x, y: critic.apply(params, x[::-1], y))


def test_generator_sees_latents_and_labels():
    model, z = ConvGenerator((8, 8, 2), (6, 4), classes=3), jax.random.normal(KEY, (6, 5))
    params = model.init(KEY, z, LABEL)
    images = model.apply(params, z, LABEL)
    assert images.shape == (6, 8, 8, 2) and float(jnp.abs(images).max()) < 1
    moved = lambda z, label: np.abs(model.apply(params, z, label) - images).max(axis=(1, 2, 3))
    other = moved(z, LABEL.at[0].set(1))
    assert other[0] > 1e-3 and other[1:].max() < 1e-6  # rows do not meet
    other = moved(z.at[2].add(1.0), LABEL)
    assert other[2] > 1e-3 and np.delete(other, 2).max() < 1e-6


def test_a_classifier_is_read_off_its_parameters():
    for model in (Classifier(10), Classifier(3, (4, 8, 6), 7)):
        params = model.init(KEY, X)
        assert classifier_of(params) == model
        features = model.apply(params, X, method="features_of")
        last = params["params"]["last"]
        np.testing.assert_allclose(model.apply(params, X), features @ last["kernel"] + last["bias"][None], atol=1e-5)
    with pytest.raises(BadInput, match="classifier_mnist"):
        classifier_of(ConvCritic((4, 6), 5).init(KEY, X))


def test_features_of_a_run(tmp_path, capsys):
    """60 updates on the digits: better than chance by far, features with the run's name, labels those of its logits."""
    run = tmp_path / "run"
    fields = ["--images", "digits", "--steps", "60", "--features", "24", "--average", "0.5"]
    code = main(["train", str(EXPERIMENTS / "classifier_mnist.py"), *fields, "--workdir", str(run)])
    assert code == 0
    from genjax.data import digits

    split = digits().test
    images, label = split.arrays["image"] / np.float32(16), split.arrays["label"]
    features, labels = classifier_features(run), classifier_labels(run)
    assert features.apply(images).shape == (250, 24) and features.apply(images).min() >= 0
    told = about(features)
    assert told.startswith("features classifier_mnist of digits, ") and "step 60" in told
    assert classifier_labels(run, digits().name).name == labels.name
    for of in (classifier_features, classifier_labels):
        with pytest.raises(BadInput, match="trained on digits, the images are those of mnist"):
            of(run, "mnist")
    wrong = 100.0 * np.mean(labels.apply(images)[:, 0] != label)
    assert wrong < 60
    said = capsys.readouterr().out
    assert f"test/error {wrong:.4g}" in said
    assert (run / "files").is_dir() or any(run.rglob("confusion*"))


@pytest.mark.parametrize(
    ("told", "call"),
    [
        ("multiples of 4", lambda: ConvGenerator((30, 28, 1)).init(KEY, jnp.ones((2, 3)))),
        ("no labels for a network of classes = 3", lambda: ConvCritic(classes=3).init(KEY, X)),
        ("labels for a network of classes = 0", lambda: ConvCritic().init(KEY, X, LABEL)),
        ("classes = 1", lambda: Classifier(1).init(KEY, X)),
        ("large enough", lambda: Classifier(2, (4, 4, 4, 4, 4)).init(KEY, X)),
    ],
)
def test_bad_input(told, call):
    with pytest.raises(BadInput, match=told):
        call()

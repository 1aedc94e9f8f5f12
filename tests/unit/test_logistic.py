import numpy as np
import pytest
from reprscope.measures.logistic import PENALTIES, Axes, Fit, Scaling, fit, path
from sklearn.linear_model import LogisticRegression

RNG = np.random.default_rng(0)


def blobs(items=300, channels=8, classes=4, *, spread=1.5):
    labels = RNG.integers(classes, size=items)
    centres = spread * RNG.normal(size=(classes, channels))
    return centres[labels] + RNG.normal(size=(items, channels)), labels


def loss(found: Fit, features, labels, penalty):
    logits = found.logits(features)
    top = logits.max(axis=1)
    each = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    each = each - logits[np.arange(len(labels)), labels]
    return each.mean() + penalty / 2 * (found.weight**2).sum()


@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 1.0])
def test_the_fit_is_scikit_learns(penalty):
    features, labels = blobs()
    found = fit(features, labels, classes=4, penalty=penalty, tolerance=1e-8)
    other = LogisticRegression(C=1 / (penalty * len(features)), tol=1e-10, max_iter=100_000)
    other.fit(features, labels)
    np.testing.assert_allclose(found.weight.T, other.coef_, atol=2e-4)
    bias = other.intercept_ - other.intercept_.mean()
    np.testing.assert_allclose(found.bias, bias, atol=2e-4)


def test_the_gradient_vanishes_where_channels_are_ill_conditioned():
    """Deviations from 1 to 10^-4 and correlated: the minimum is one, from wherever one starts."""
    features, labels = blobs(channels=12)
    mixing = np.linalg.qr(RNG.normal(size=(12, 12)))[0] * np.geomspace(1, 1e-4, 12)
    features = Scaling.of(features @ mixing)(features @ mixing)
    found = fit(features, labels, classes=4, penalty=1e-5)
    assert found.gradient <= 1e-5 and found.iterations < 500
    random = Fit(RNG.normal(size=(12, 4)), RNG.normal(size=4), 0, 0.0)
    again = fit(features, labels, classes=4, penalty=1e-5, start=random)
    assert loss(again, features, labels, 1e-5) == pytest.approx(
        loss(found, features, labels, 1e-5), abs=1e-7
    )
    # By finite differences, in the features' own axes.
    for row, column in ((0, 0), (5, 2), (11, 3)):
        moved = []
        for step in (1e-4, -1e-4):
            weight = found.weight.copy()
            weight[row, column] += step
            moved.append(loss(found._replace(weight=weight), features, labels, 1e-5))
        assert (moved[0] - moved[1]) / 2e-4 == pytest.approx(0, abs=1e-5)


def test_a_path_has_the_fits_of_each_penalty_alone():
    features, labels = blobs()
    axes = Axes(features)
    fits = path(axes, labels, classes=4, tolerance=1e-7)
    assert list(fits) == sorted(PENALTIES, reverse=True)
    norms = [float((one.weight**2).sum()) for one in fits.values()]
    assert norms == sorted(norms)
    for penalty in (1.0, 1e-3):
        alone = fit(features, labels, classes=4, penalty=penalty, tolerance=1e-7)
        np.testing.assert_allclose(fits[penalty].weight, alone.weight, atol=1e-4)


def test_a_class_without_items_is_never_predicted():
    features, labels = blobs()
    found = fit(features, labels, classes=6, penalty=1e-3)
    assert found.logits(features).argmax(axis=1).max() < 4


def test_more_channels_than_items_and_constant_channels():
    features = np.concatenate([RNG.normal(size=(20, 50)), np.ones((20, 2))], axis=1)
    labels = np.arange(20) % 3
    found = fit(Scaling.of(features)(features), labels, classes=3, penalty=1e-4)
    assert (found.logits(Scaling.of(features)(features)).argmax(axis=1) == labels).all()
    assert found.gradient <= 1e-5

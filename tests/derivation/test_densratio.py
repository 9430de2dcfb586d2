"""An oracle from outside: the density ratio of two Gaussians, by the package densratio and by our
generators.
"""

import numpy as np
import pytest
import torch

densratio = pytest.importorskip("densratio", reason="densratio is in the bench extra")

from dil_tutorial.bregman import LSIF, UKL, get_generator  # noqa: E402
from toy.fit import newton  # noqa: E402


@pytest.fixture(scope="module")
def samples():
    """x ~ N(0.5, 0.7) in the numerator, y ~ N(0, 1) in the denominator; the true log-ratio is
    quadratic.
    """
    rng = np.random.default_rng(0)
    return rng.normal(0.5, 0.7, 3000), rng.normal(0.0, 1.0, 3000)


def true_log_ratio(z):
    return -((z - 0.5) ** 2) / (2 * 0.49) + z**2 / 2 - np.log(0.7)


def kernels(points, centers, sigma):
    return torch.exp(
        -((torch.as_tensor(points)[:, None] - torch.as_tensor(centers).ravel()[None]) ** 2)
        / (2 * sigma**2)
    )


def test_our_lsif_solves_the_packages_problem(samples):
    """uLSIF is LSIF with r linear in Gaussian kernels and a ridge: minimize ours in r on its
    kernels, get its weights.
    """
    x, y = samples
    np.random.seed(0)  # noqa: NPY002
    theirs = densratio.densratio(
        x,
        y,
        method="RuLSIF",
        alpha=0.0,
        sigma_range=[0.5],
        lambda_range=[0.1],
        kernel_num=20,
        verbose=False,
    )
    centers = np.asarray(theirs.kernel_info.centers)
    phi_x, phi_y = (kernels(z, centers, 0.5) for z in (x, y))

    def objective(theta):  # (1, K) -> (1,)
        r_x, r_y = theta @ phi_x.T, theta @ phi_y.T
        ratio_loss = (LSIF.dh(r_y) * r_y - LSIF.h(r_y)).mean(1) - LSIF.dh(r_x).mean(1)
        return ratio_loss + 0.1 / 2 * (theta**2).sum(1)

    # as the package: no negative weights
    theta = newton(objective, torch.zeros(1, 20, dtype=torch.float64))[0].clamp(min=0)
    assert np.allclose(theta.numpy(), np.asarray(theirs.theta).ravel(), atol=1e-8)


@pytest.mark.parametrize("method", ["uLSIF", "KLIEP"])
def test_estimates_agree_with_the_package_and_the_truth(samples, method):
    """Our generators on f = a + b z + c z^2, which contains the truth, against kernel estimates and
    the exact ratio.
    """
    x, y = samples
    np.random.seed(0)  # noqa: NPY002
    ranges = {"sigma_range": [0.3, 0.5, 1.0], "kernel_num": 50} | (
        {"lambda_range": [0.01, 0.1]} if method == "uLSIF" else {}
    )
    theirs = densratio.densratio(x[:1000], y[:1000], method=method, verbose=False, **ranges)
    grid = np.linspace(-1.0, 1.5, 26)
    exact = np.exp(true_log_ratio(grid))
    estimate = np.asarray(theirs.compute_density_ratio(grid)).ravel()
    design = lambda z: torch.stack(  # noqa: E731
        [torch.ones(len(z)).double(), torch.as_tensor(z), torch.as_tensor(z) ** 2], 1
    )
    fits = {}
    for name in ("lsif", "ukl", "bce", "hellinger"):
        gen = get_generator(name)

        def objective(theta, gen=gen):
            return gen.chosen_loss(theta @ design(x).T).mean(1) + gen.reference_loss(
                theta @ design(y).T
            ).mean(1)

        theta = newton(objective, torch.zeros(1, 3, dtype=torch.float64))
        fits[name] = torch.exp(theta @ design(grid).T)[0].numpy()
        assert np.abs(fits[name] - exact).max() < 0.2, name  # sampling error; the ratio reaches 1.8
    assert np.abs(estimate - exact).max() < 0.35  # the kernel estimate is smoothed
    mine = fits["ukl" if method == "KLIEP" else "lsif"]
    assert np.corrcoef(estimate, mine)[0, 1] > 0.95


def test_ukl_is_kliep(samples):
    """KLIEP maximizes the likelihood of a normalized ratio; UKL's minimizer is normalized by itself
    (free constant).
    """
    x, y = samples
    design = lambda z: torch.stack([torch.ones(len(z)).double(), torch.as_tensor(z)], 1)  # noqa: E731
    theta = newton(
        lambda t: (
            UKL.chosen_loss(t @ design(x).T).mean(1) + UKL.reference_loss(t @ design(y).T).mean(1)
        ),
        torch.zeros(1, 2, dtype=torch.float64),
    )
    assert torch.exp(theta @ design(y).T).mean().item() == pytest.approx(1, abs=1e-12)

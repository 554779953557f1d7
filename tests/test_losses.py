"""Eq. 1 against its definition written out in float64, and its closed-form gradient against autograd."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sdd_core.training import losses


def written_out(z, y, t, alpha, tau):
    """Eq. 1, an image at a time, in float64."""

    def log_softmax(row):
        row = row - row.max()
        return row - math.log(np.exp(row).sum())

    total = 0.0
    for student, label, teacher in zip(np.float64(z), y, np.float64(t), strict=True):
        soft_s, soft_t = log_softmax(student / tau), log_softmax(teacher / tau)
        total += (1 - alpha) * -log_softmax(student)[label]
        total += alpha * tau**2 * (np.exp(soft_t) * (soft_t - soft_s)).sum()
    return total / len(y)


def batch(n=7, classes=5, scale=3.0, seed=0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    z, t = (torch.from_numpy(rng.normal(0, scale, (n, classes))).to(dtype) for _ in range(2))
    return z, torch.from_numpy(rng.integers(0, classes, n)), t


def gradient(z, y, t, alpha, tau):
    """The closed form, with targets from labels and teacher as a training step makes them."""
    targets = losses.label_targets(y, z.shape[1], alpha).to(torch.promote_types(z.dtype, torch.float32))
    if alpha > 0:
        targets = targets + losses.teacher_targets(t, alpha, tau)
    return losses.gradient(z, targets, alpha, tau)


def by_autograd(z, y, t, alpha, tau):
    z = z.detach().clone().requires_grad_()
    return torch.autograd.grad(losses.loss(z, y, t, alpha, tau), z)[0]


# The paper's authors use alpha 0.8, tau 10. 0.5 and its like are exact in float32, as onehot targets are held.
CASES = [(alpha, tau) for alpha in (0.0, 0.25, 0.5, 1.0) for tau in (0.125, 1.0, 4.0, 10.0, 100.0)]


@pytest.mark.parametrize(("alpha", "tau"), [*CASES, (0.8, 10.0), (0.1, 3.0)])
def test_the_loss_is_equation_1(alpha, tau):
    z, y, t = batch()
    expected = written_out(z.numpy(), y.numpy(), t.numpy(), alpha, tau)
    assert float(losses.loss(z, y, t, alpha, tau)) == pytest.approx(expected, rel=1e-11)
    assert float(losses.loss(z.float(), y, t.float(), alpha, tau)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("alpha", "tau"), CASES)
def test_the_gradient_is_that_of_the_loss(alpha, tau):
    z, y, t = batch()
    torch.testing.assert_close(gradient(z, y, t, alpha, tau), by_autograd(z, y, t, alpha, tau), rtol=0, atol=1e-14)


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 9),
    classes=st.integers(1, 12),
    scale=st.floats(0, 30),
    alpha=st.integers(0, 16).map(lambda k: k / 16),
    tau=st.floats(0.05, 50),
    seed=st.integers(0, 2**32 - 1),
)
def test_loss_and_gradient_for_any_batch(n, classes, scale, alpha, tau, seed):
    z, y, t = batch(n, classes, scale, seed)
    loss = float(losses.loss(z, y, t, alpha, tau))
    assert loss == pytest.approx(written_out(z.numpy(), y.numpy(), t.numpy(), alpha, tau), rel=1e-9, abs=1e-9)
    assert loss >= -1e-9
    found = gradient(z, y, t, alpha, tau)
    torch.testing.assert_close(found, by_autograd(z, y, t, alpha, tau), rtol=1e-9, atol=1e-12)
    # A constant added to all logits changes no probability.
    torch.testing.assert_close(found.sum(dim=1), torch.zeros(n, dtype=torch.float64), rtol=0, atol=1e-12)


def test_alpha_0_is_plain_cross_entropy_to_the_bit():
    z, y, t = batch(dtype=torch.float32)
    assert torch.equal(losses.loss(z, y, t, 0.0, 10.0), F.cross_entropy(z, y))
    assert torch.equal(losses.loss(z, y), F.cross_entropy(z, y))
    assert torch.equal(losses.gradient(z, losses.label_targets(y, 5, 0.0), 0.0, 10.0), gradient(z, y, t, 0.0, 0.5))


def test_alpha_1_reads_no_label():
    z, y, t = batch()
    assert torch.equal(gradient(z, y, t, 1.0, 4.0), gradient(z, (y + 1) % 5, t, 1.0, 4.0))
    assert float(losses.loss(z, y, t, 1.0, 4.0)) == float(losses.loss(z, (y + 1) % 5, t, 1.0, 4.0))


@pytest.mark.parametrize("tau", [0.5, 1.0, 20.0])
def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it(tau):
    z, y, _ = batch()
    assert float(losses.loss(z, y, z, 1.0, tau)) == pytest.approx(0, abs=1e-12)
    assert float(gradient(z, y, z, 1.0, tau).abs().max()) < 1e-15


def test_at_high_temperature_distillation_is_regression_of_centred_logits():
    """Hinton et al. (2015), Sec. 2.1: tau (softmax(z/tau) - softmax(t/tau)) -> (z - t)/C, both of zero mean."""
    z, y, t = batch()
    centred = (z - z.mean(dim=1, keepdim=True)) - (t - t.mean(dim=1, keepdim=True))
    torch.testing.assert_close(gradient(z, y, t, 1.0, 1e5), centred / 5 / 7, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tau", [1e-3, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_extreme_logits_are_no_nan(alpha, tau, dtype):
    z, y, t = batch(scale=1e4, dtype=dtype)
    loss, found = losses.loss(z, y, t, alpha, tau), gradient(z, y, t, alpha, tau)
    assert loss.dtype == found.dtype == torch.float32
    assert bool(loss.isfinite())
    assert bool(found.isfinite().all())
    exact = gradient(z.double(), y, t.double(), alpha, tau)
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=2e-6 * max(alpha * tau, 1))


def test_bfloat16_logits_are_made_float32_before_anything_is_computed_of_them():
    z, y, t = batch(dtype=torch.bfloat16)
    assert torch.equal(gradient(z, y, t, 0.5, 4.0), gradient(z.float(), y, t.float(), 0.5, 4.0))
    assert torch.equal(losses.loss(z, y, t, 0.5, 4.0), losses.loss(z.float(), y, t.float(), 0.5, 4.0))


def test_the_gradient_changes_nothing_it_is_given_and_records_nothing():
    z, y, t = batch(dtype=torch.float32)
    z.requires_grad_()
    targets = losses.label_targets(y, 5, 0.5) + losses.teacher_targets(t, 0.5, 4.0)
    before = [value.detach().clone() for value in (z, t, targets)]
    assert not losses.gradient(z, targets, 0.5, 4.0).requires_grad
    assert all(torch.equal(value, old) for value, old in zip((z, t, targets), before, strict=True))


def test_a_temperature_that_is_not_given_is_1():
    z, y, t = batch()
    assert torch.equal(losses.loss(z, y, t, 0.5), losses.loss(z, y, t, 0.5, 1.0))
    assert not torch.equal(losses.loss(z, y, t, 0.5), losses.loss(z, y, t, 0.5, 2.0))


def test_distillation_without_a_teachers_logits_is_refused():
    z, y, _ = batch()
    with pytest.raises(ValueError, match=r"alpha 0\.5 needs the teacher's logits"):
        losses.loss(z, y, alpha=0.5)

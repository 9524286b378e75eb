import pytest
import torch

from openclef.tokenizer.norms import LatentNorm, SpectrumNorm


def recordings(rng, n=8, n_tokens=100, dim=3):
    """Latents `[n, n_tokens, dim]` of recordings that differ in level as much as over time."""
    level = torch.randn(n, 1, dim, generator=rng)
    return 5 + 2 * (level + torch.randn(n, n_tokens, dim, generator=rng))


def trained(n_steps=400):
    norm, rng = LatentNorm(3, decay=0.97), torch.Generator().manual_seed(0)
    for _ in range(n_steps):
        z = recordings(rng)
        norm(z, torch.ones(z.shape[:-1], dtype=torch.bool))
    return norm, rng


def test_latents_are_standardised_over_recordings_not_within_a_batch():
    norm, rng = trained()
    z = norm.eval()(recordings(rng, n=500), torch.ones(500, 100, dtype=torch.bool))
    torch.testing.assert_close(z.mean((0, 1)), torch.zeros(3), atol=0.15, rtol=0)
    torch.testing.assert_close(z.std((0, 1)), torch.ones(3), atol=0.08, rtol=0)


def test_a_latent_is_the_same_in_training_and_in_use():
    norm, rng = trained(20)
    z = recordings(rng)
    visible = torch.ones(z.shape[:-1], dtype=torch.bool)
    in_training = norm(z, visible)
    torch.testing.assert_close(norm.eval()(z, visible), in_training, atol=1e-4, rtol=1e-4)


def test_a_shift_that_all_latents_share_has_no_gradient():
    norm, rng = trained(20)
    z = recordings(rng)
    shift = torch.zeros(3, requires_grad=True)
    out = norm(z + shift, torch.ones(z.shape[:-1], dtype=torch.bool))
    (out * torch.randn(out.shape, generator=rng)).sum().backward()
    assert float(shift.grad.abs().max()) < 1e-2 * out.numel() ** 0.5


def test_hidden_latents_count_for_nothing():
    one, other = LatentNorm(3, decay=0.9), LatentNorm(3, decay=0.9)
    z = recordings(torch.Generator().manual_seed(0))
    visible = torch.arange(100).expand(8, 100) < 60
    changed = torch.where(visible[..., None], z, 1e6)
    assert torch.equal(one(z, visible)[visible], other(changed, visible)[visible])
    assert torch.equal(one.mean, other.mean)


def test_nothing_visible_is_the_moving_statistics():
    norm, rng = trained(20)
    z, nothing = recordings(rng), torch.zeros(8, 100, dtype=torch.bool)
    before = norm.mean.clone()
    out = norm(z, nothing)
    assert torch.equal(norm.mean, before)
    assert torch.equal(out, norm.eval()(z, nothing))


def spectra(rng, n_frames):
    return 0.3 + 0.2 * torch.randn(2, 19, 4, n_frames, generator=rng)


def test_spectra_are_standardised_channel_by_channel():
    norm, rng = SpectrumNorm(4, decay=0.9), torch.Generator().manual_seed(0)
    for _ in range(50):
        norm.update(spectra(rng, 200), torch.ones(2, 19, 1, 200, dtype=torch.bool))
    torch.testing.assert_close(norm.mean, torch.full((19, 4, 1), 0.3), atol=0.02, rtol=0)
    torch.testing.assert_close(norm.deviation, torch.full((19, 4, 1), 0.2), atol=0.02, rtol=0)
    x = spectra(rng, 10)
    torch.testing.assert_close(norm.restore(norm.standardise(x)), x)


def test_a_frame_counts_alike_however_few_its_batch_shows():
    norm, rng = SpectrumNorm(4, decay=0.9), torch.Generator().manual_seed(0)
    for _ in range(100):
        x = spectra(rng, 200)
        shown = torch.ones(2, 19, 1, 200, dtype=torch.bool)
        shown[:, 0] = False
        shown[0, 0, :, 0] = True  # one frame of the first channel a batch
        norm.update(x * shown, shown)
    rare = torch.zeros(2, 19, 1, 200, dtype=torch.bool)
    rare[0, 0, :, 0] = True
    before = norm.mean[0].clone()
    norm.update(torch.where(rare, 1.0, 0.0).expand(2, 19, 4, 200), rare)
    moved = (norm.mean[0] - before).abs().max()
    assert float(moved) == pytest.approx(0.07, abs=0.03)  # (1 - decay) of the way from .3 to 1


def test_a_channel_never_visible_stays_finite():
    norm = SpectrumNorm(4, decay=0.9)
    shown = torch.ones(2, 19, 1, 20, dtype=torch.bool)
    shown[:, 5] = False
    norm.update(torch.rand(2, 19, 4, 20) * shown, shown)
    assert torch.equal(norm.mean[5], torch.zeros(4, 1))
    assert torch.equal(norm.deviation[5], torch.ones(4, 1))

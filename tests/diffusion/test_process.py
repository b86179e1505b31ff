"""Corruption against diffusers, samplers against a distribution whose exact denoiser is known."""

import pytest
import torch
from diffusers import DDPMScheduler

from trcl_policy.diffusion.process import PREDICTIONS, SAMPLERS, SCHEDULES, Diffusion, Process


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(count=50, size=3, levels=100):
    clean, noise = torch.randn(2, count, size, generator=generator())
    level = torch.randint(1, levels + 1, (count, 1), generator=generator(1))
    return clean, noise, level


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_corruption_and_velocity_are_diffusers(schedule):
    process = Process(Diffusion(beta_schedule=schedule, prediction="v"))
    public = DDPMScheduler(num_train_timesteps=100, beta_schedule=schedule)
    clean, noise, level = drawn()
    timestep = level[:, 0] - 1  # diffusers' timestep 0 is our level 1
    noisy = public.add_noise(clean, noise, timestep)
    torch.testing.assert_close(process.corrupt(clean, noise, level), noisy, rtol=1e-6, atol=1e-6)
    velocity = public.get_velocity(clean, noise, timestep)
    torch.testing.assert_close(process.target(clean, noise, level), velocity, rtol=1e-6, atol=1e-6)


def test_level_zero_is_clean():
    clean, noise, _ = drawn()
    assert torch.equal(Process(Diffusion()).corrupt(clean, noise, torch.zeros(50, 1, dtype=torch.long)), clean)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_targets_lead_back_to_the_clean_sample(prediction):
    process = Process(Diffusion(prediction=prediction, beta_schedule="linear"))
    clean, noise, level = drawn()
    process.alpha_bar = process.alpha_bar.double()
    noisy = process.corrupt(clean.double(), noise.double(), level)
    target = process.target(clean.double(), noise.double(), level)
    torch.testing.assert_close(process.clean(target, noisy, level), clean.double(), rtol=1e-6, atol=1e-6)


MEAN, SPREAD = torch.tensor([0.3, -0.5]), torch.tensor([0.2, 0.5])


def exact(process):
    """What a perfect network predicts for x_0 ~ N(MEAN, SPREAD^2)."""

    def predict(noisy, level):
        alpha_bar = process.alpha_bar[level]
        variance = alpha_bar * SPREAD**2 + 1 - alpha_bar
        clean = MEAN + alpha_bar.sqrt() * SPREAD**2 / variance * (noisy - alpha_bar.sqrt() * MEAN)
        noise = (1 - alpha_bar).sqrt() / variance * (noisy - alpha_bar.sqrt() * MEAN)
        velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean
        return {"x0": clean, "epsilon": noise, "v": velocity}[process.config.prediction]

    return predict


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_samplers_recover_mean_and_spread_of_a_gaussian(sampler, prediction):
    fine = {"num_train_timesteps": 1000, "clip_range": 0.0}  # the error of the first-order samplers falls with the step
    process = Process(Diffusion(sampler=sampler, prediction=prediction, **fine))
    noise = torch.randn(20000, 2, generator=generator())
    made = process.sample(exact(process), noise, {"ddim": 250, "ddpm": 1000, "dpm++": 50}[sampler], generator(1))
    torch.testing.assert_close(made.mean(0), MEAN, rtol=0, atol=0.015)
    torch.testing.assert_close(made.std(0), SPREAD, rtol=0.03, atol=0)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_predictions_of_one_truth_give_one_sample(sampler):
    made = {}
    for prediction in PREDICTIONS:
        process = Process(Diffusion(sampler=sampler, prediction=prediction, clip_range=0))
        noise = torch.randn(100, 2, generator=generator())
        made[prediction] = process.sample(exact(process), noise, 8, generator(1))
    torch.testing.assert_close(made["v"], made["x0"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(made["epsilon"], made["x0"], rtol=0.05, atol=0.05)  # alpha_bar_T is almost 0


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", ["x0", "v"])
def test_samples_stay_within_the_clip_range(sampler, prediction):
    process = Process(Diffusion(sampler=sampler, prediction=prediction, clip_range=0.4))
    free = Process(Diffusion(sampler=sampler, prediction=prediction, clip_range=0))
    noise = torch.randn(500, 2, generator=generator())
    assert process.sample(exact(process), noise, 10, generator(1)).abs().max() <= 0.4 + 1e-5
    assert free.sample(exact(free), noise, 10, generator(1)).abs().max() > 0.6


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_depend_on_their_streams_alone(sampler):
    process = Process(Diffusion(sampler=sampler))
    noise = torch.randn(4, 2, generator=generator())
    rows = [generator(seed) for seed in range(4)]
    whole = process.sample(exact(process), noise, 5, rows)
    again = process.sample(exact(process), noise, 5, [generator(seed) for seed in range(4)])
    alone = process.sample(exact(process), noise[2:3], 5, [generator(2)])
    assert torch.equal(whole, again)
    assert torch.equal(whole[2:3], alone)


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_samplers_begin_at_the_noisiest_level_and_fall(steps):
    seen = []
    process = Process(Diffusion())

    def predict(noisy, level):
        seen.append(level)
        return noisy

    process.sample(predict, torch.randn(1, 2), steps, generator())
    assert len(seen) == steps
    assert seen[0] == process.num_levels
    assert seen == sorted(set(seen), reverse=True)
    assert seen[-1] >= 1


def test_weights_follow_the_clipped_signal_to_noise_ratio():
    for prediction in PREDICTIONS:
        process = Process(Diffusion(prediction=prediction, weighting="snr", snr_clip=5.0))
        share = process.alpha_bar[1:].double()
        snr = share / (1 - share)
        wanted = {"x0": snr.clamp_max(5), "epsilon": snr.clamp_max(5) / snr, "v": snr.clamp_max(5) / (snr + 1)}[
            prediction
        ]
        torch.testing.assert_close(process.weights[1:].double(), wanted, rtol=1e-5, atol=1e-9)
        assert process.weights[0] == 0
    assert torch.equal(Process(Diffusion()).weights, torch.tensor([0.0] + [1.0] * 100))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"prediction": "eps"}, "prediction must be one of epsilon, x0, v, got 'eps'"),
        ({"sampler": "euler"}, "sampler must be one of"),
        ({"num_train_timesteps": 1}, "num_train_timesteps must be >= 2, got 1"),
        ({"acting_steps": 0}, "acting_steps must be in"),
        ({"replay_steps": 101}, "replay_steps must be in"),
        ({"snr_clip": 0.0}, "snr_clip must be > 0"),
        ({"clip_range": -1.0}, "clip_range >= 0"),
    ],
)
def test_impossible_values_are_refused(fault, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Diffusion(**fault)

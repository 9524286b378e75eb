"""The signal of one session from its state: background, rhythms, findings, artefacts, amplifier.

Every phenomenon is one or more sources (waveform x topography, see `sources`); brain sources are
summed first, so that suppression and low voltage act on the brain and not on the artefacts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openclef.simulate.patients import Patient, Session, Sign, SimulationConfig
from openclef.simulate.scene import Scene
from openclef.simulate.sources import POSITIONS, mix, shaped_noise, topography
from openclef.types import CHANNELS, FloatArray

_FOCI = {"temporal": (-0.9, 0.05), "frontal": (-0.5, 0.6), "parietal": (-0.45, -0.5)}
_BROAD_CENTERS = ((-0.35, 0.35), (0.35, 0.35), (0.0, -0.3))
_BACKGROUND_WIDTH = 0.38


def simulate_signal(patient: Patient, session: Session, *, config: SimulationConfig) -> FloatArray:
    """Make the signal of a session.

    Parameters
    ----------
    patient : Patient
        Traits and site.
    session : Session
        State: findings, gains of the drugs, bad channels.
    config : SimulationConfig
        Duration, sampling frequency, effect size and seed.

    Returns
    -------
    array, shape=(19, n_times)
        The referential EEG in uV, float32, in `CHANNELS` order.
    """
    rng = config.generator("signal", patient=patient.index, session=session.index)
    scene = Scene.draw(rng, patient, session, config)
    _add_background(scene)
    _add_rhythms(scene)
    _add_slowing(scene)
    _add_sleep(scene)
    _add_discharges(scene)
    signal_CS = mix(scene.sources)
    signal_CS *= _brain_gain(scene)

    scene.sources.clear()
    _add_artefacts(scene)
    signal_CS += mix(scene.sources)
    noise_CS = rng.standard_normal(signal_CS.shape, dtype=np.float32)
    noise_CS *= np.float32(patient.site.noise_uv)
    signal_CS += noise_CS
    for name, kind in session.bad_channels.items():
        row = CHANNELS.index(name)
        if kind == "flat":
            signal_CS[row] = 0.3 * noise_CS[row]
        else:
            signal_CS[row] = 0.3 * signal_CS[row] + (30 / patient.site.noise_uv) * noise_CS[row]
    signal_CS *= np.float32(patient.site.gain)
    return signal_CS


def _focus(sign: Sign) -> tuple[float, float]:
    x, y = _FOCI[sign.region or "temporal"]
    return (x, y) if sign.side == "left" else (-x, y)


def _add_background(scene: Scene) -> None:
    """1/f noise of the individual's exponent and gain, one source under each electrode."""
    traits = scene.patient.traits
    freqs_F = np.fft.rfftfreq(scene.n_times, 1 / scene.sfreq_hz)
    psd_F = traits.background_uv2 * (0.5 + freqs_F**2) ** (-traits.exponent / 2)
    psd_F *= (freqs_F > 0.1) / (1 + (freqs_F / 70) ** 8)  # the amplifier's band
    psd_F[0] = 0
    spread_CC = np.stack(
        [topography(*POSITIONS[name], width=_BACKGROUND_WIDTH) for name in CHANNELS], axis=1
    )
    spread_CC /= np.linalg.norm(spread_CC, axis=1, keepdims=True)
    for row in range(len(CHANNELS)):
        noise = shaped_noise(scene.rng, psd_F=psd_F, n_times=scene.n_times, sfreq_hz=scene.sfreq_hz)
        scene.add(noise, spread_CC[:, row])


def _add_rhythms(scene: Scene) -> None:
    """Add the posterior rhythm, frontal theta and beta of the waking brain."""
    traits = scene.patient.traits
    awake = (1 - scene.asleep) * (1 - 0.7 * scene.drowsy)
    opened = 1 - traits.reactivity * (1 - scene.eyes_closed)
    alpha = traits.alpha_uv * scene.gain("alpha") * awake * opened
    alpha_hz = traits.alpha_hz - scene.effect * scene.session.slowing_hz
    if "absent_pdr" in scene.session.findings:
        alpha = alpha * 0.12**scene.effect
    for x, y, share in ((-0.35, -0.85, 0.8), (0.35, -0.85, 0.85), (0.0, -0.5, 0.45)):
        rhythm = scene.noise(alpha_hz, 0.45)
        rhythm *= scene.curve(share * alpha * scene.waxing(0.4))
        scene.add(rhythm, topography(x, y, width=0.5))
    # Drowsy: alpha gives way to theta; both states bring some frontal beta.
    theta = traits.theta_uv * scene.gain("theta") * (1 + 1.2 * scene.drowsy + 0.8 * scene.asleep)
    for x, y in ((0.0, 0.45), (0.0, -0.2)):
        rhythm = scene.noise(5.8, 0.8)
        rhythm *= scene.curve(theta * scene.waxing(0.3))
        scene.add(rhythm, topography(x, y, width=0.7))
    excess = 4.0 * scene.severity("diffuse_beta")
    beta = np.hypot(traits.beta_uv * scene.gain("beta"), excess) * (1 + 0.2 * scene.drowsy)
    for x, y in _BROAD_CENTERS:
        rhythm = scene.noise(20.0, 3.5)
        rhythm *= scene.curve(0.7 * beta * scene.waxing(0.25))
        scene.add(rhythm, topography(x, y, width=0.75))


def _add_slowing(scene: Scene) -> None:
    """Delta and theta: of sleep, of diffuse and of focal dysfunction."""
    traits = scene.patient.traits
    slow = scene.severity("generalized_slowing") + 0.7 * scene.severity("triphasic")
    sleep_delta = 14 * scene.asleep
    delta = np.hypot(traits.delta_uv * scene.gain("delta") + 9 * slow, sleep_delta)
    for x, y in _BROAD_CENTERS:
        rhythm = scene.noise(1.9, 0.6)
        rhythm *= scene.curve(delta * scene.waxing(0.45))
        scene.add(rhythm, topography(x, y, width=0.8))
    if slow:
        for x, y in ((-0.2, 0.0), (0.2, 0.0)):
            rhythm = scene.noise(5.0, 0.9)
            rhythm *= scene.curve(8 * slow * (1 - 0.5 * scene.asleep) * scene.waxing(0.4))
            scene.add(rhythm, topography(x, y, width=0.9))
    if "focal_slowing" in scene.session.findings:
        strength = scene.severity("focal_slowing")
        at = _focus(scene.session.findings["focal_slowing"])
        for center_hz, width_hz, uv in ((1.6, 0.5, 26.0), (5.2, 0.8, 9.0)):
            rhythm = scene.noise(center_hz, width_hz)
            rhythm *= scene.curve(uv * strength * scene.waxing(0.6))
            scene.add(rhythm, topography(*at, width=0.45))


def _add_sleep(scene: Scene) -> None:
    """Vertex waves at the onset of sleep and within it, spindles if this sleeper has them."""
    t = scene.times(0.3)
    vertex = -np.sin(2 * np.pi * t / 0.3) * np.hanning(len(t))
    onsets_N = scene.onsets(0.08 * scene.asleep + 0.02 * scene.drowsy)
    scene.add(60 * scene.events(onsets_N, vertex), topography(0, 0.05, width=0.45))
    if "spindles" in scene.session.findings:
        envelope = scene.events(scene.onsets(0.1 * scene.asleep), scene.window(1.0))
        spindles = scene.noise(13.3, 0.35) * envelope
        spindles *= 13 * scene.severity("spindles")
        scene.add(spindles, topography(0, 0.15, width=0.55))


def _add_discharges(scene: Scene) -> None:
    """Epileptiform and periodic discharges."""
    found = scene.session.findings
    t = scene.times(0.45)
    # A spike of about 80 ms, then a slow wave of the same sign after a brief reversal.
    spike = -np.exp(-(((t - 0.06) / 0.022) ** 2)) + 0.45 * np.exp(-(((t - 0.11) / 0.025) ** 2))
    spike_and_wave = spike - 0.5 * np.exp(-(((t - 0.27) / 0.07) ** 2))
    steady = np.ones_like(scene.asleep)
    if "spikes" in found:
        # Sleep brings discharges out.
        rate_hz_T = 0.2 * scene.severity("spikes") * (1 + 1.5 * scene.asleep)
        track = scene.events(scene.onsets(rate_hz_T), spike_and_wave)
        scene.add(95 * track, topography(*_focus(found["spikes"]), width=0.38))
    if "spike_wave" in found:
        t = scene.times(1 / 3)
        # The wave carries the 3 Hz, the spike its harmonics.
        wave = -0.8 * np.exp(-(((t - 0.04) / 0.018) ** 2)) - np.exp(-(((t - 0.2) / 0.085) ** 2))
        starts_N = scene.onsets(0.03 * scene.severity("spike_wave") * steady)
        counts_N = scene.rng.integers(5, 22, len(starts_N))
        onsets_N = np.concatenate(
            [
                start + (np.arange(count) * scene.sfreq_hz / 3).astype(np.intp)
                for start, count in zip(starts_N, counts_N, strict=True)
            ]
            or [starts_N]
        )
        track = scene.events(onsets_N, wave - wave.mean(), spread=0.1)
        scene.add(130 * track, topography(0, 0.45, width=0.8))
    if "gpd" in found:
        track = scene.events(_periodic(scene, 1.0), spike_and_wave)
        scene.add(70 * scene.effect * track, topography(0, 0.2, width=1.0))
    if "triphasic" in found:
        t = scene.times(0.6)
        peaks = ((0.08, 0.04, -0.35), (0.2, 0.06, 1.0), (0.38, 0.09, -0.6))
        triphasic = sum(a * np.exp(-(((t - at) / width) ** 2)) for at, width, a in peaks)
        track = scene.events(_periodic(scene, 1.6), triphasic * np.ones_like(t))
        scene.add(70 * scene.effect * track, topography(0, 0.4, width=0.8))
    if "lpd" in found:
        track = scene.events(_periodic(scene, 1.0), spike_and_wave)
        scene.add(100 * scene.effect * track, topography(*_focus(found["lpd"]), width=0.5))


def _periodic(scene: Scene, rate_hz: float) -> NDArray[np.intp]:
    """Onsets with an almost steady interval, in runs that cover most of the record."""
    n_events = int(scene.n_times / scene.sfreq_hz * rate_hz * 1.2) + 2
    intervals_N = scene.rng.normal(1 / rate_hz, 0.08 / rate_hz, n_events)
    onsets_N = (np.cumsum(np.abs(intervals_N)) * scene.sfreq_hz).astype(np.intp)
    onsets_N = onsets_N[onsets_N < scene.n_times]
    running_T = scene.waxing(1.0) > 0.6
    return onsets_N[running_T[(onsets_N / scene.sfreq_hz).astype(np.intp)]]


def _brain_gain(scene: Scene) -> FloatArray:
    """Factor `[S]` on all brain sources: low voltage and burst suppression."""
    gain = np.ones(scene.n_times, np.float32)
    if "low_voltage" in scene.session.findings:
        gain *= np.float32(0.4**scene.effect)
    if "burst_suppression" in scene.session.findings:
        bursts = scene.events(scene.onsets(np.full_like(scene.asleep, 0.14)), scene.window(2.5))
        floor = 0.06**scene.effect
        gain *= floor + (1 - floor) * np.minimum(1.4 * bursts, 1.0)
    return gain


def _add_artefacts(scene: Scene) -> None:
    """Blinks, eye movements, muscle, heart, mains."""
    rng = scene.rng
    relaxed = scene.session.setting == "icu" or "absent_pdr" in scene.session.findings
    looking = (1 - scene.eyes_closed) * (0.1 if relaxed else 1.0)
    frontal = topography(-0.31, 1.05, width=0.35) + topography(0.31, 1.05, width=0.35)
    blinks = scene.events(scene.onsets(0.3 * looking + 0.004), scene.window(0.35))
    scene.add(110 * blinks, frontal)
    lateral = topography(-0.85, 0.7, width=0.35) - topography(0.85, 0.7, width=0.35)
    slow_roll = scene.noise(0.35, 0.1)
    slow_roll *= scene.curve(3 + 18 * scene.drowsy)
    scene.add(slow_roll, lateral)

    band_F = np.fft.rfftfreq(scene.n_times, 1 / scene.sfreq_hz)
    psd_F = np.where((band_F > 20) & (band_F < 75), 1 / 55, 0.0)
    for x, y, rate in ((-1.0, 0.25, 0.02), (1.0, 0.25, 0.02), (0.0, 1.1, 0.01)):
        bursts = scene.events(
            scene.onsets(rate * (1 - 0.9 * scene.asleep)),
            scene.window(rng.uniform(2, 6)),
            spread=0.7,
        )
        muscle = shaped_noise(rng, psd_F=psd_F, n_times=scene.n_times, sfreq_hz=scene.sfreq_hz)
        muscle *= np.float32(rng.lognormal(0.2, 0.6)) + 14 * bursts
        scene.add(muscle, topography(x, y, width=0.4))

    beat_s = 60 / rng.uniform(55, 95)
    n_beats = int(scene.n_times / scene.sfreq_hz / beat_s) + 1
    beats_N = np.cumsum(rng.normal(beat_s, 0.03, n_beats)) * scene.sfreq_hz
    t = scene.times(0.12)
    qrs = np.exp(-(((t - 0.05) / 0.012) ** 2)) - 0.3 * np.exp(-(((t - 0.08) / 0.015) ** 2))
    heart = scene.events(np.sort(beats_N).astype(np.intp), qrs, spread=0.05)
    scene.add(heart, np.float32(rng.lognormal(1.0, 0.6)) * topography(-1.2, -0.6, width=1.3))

    phase = 2 * np.pi * 60 / scene.sfreq_hz * np.arange(scene.n_times) + rng.uniform(0, 6.28)
    pickup_C = rng.lognormal(0.0, 0.8, len(CHANNELS)).astype(np.float32)
    scene.add(np.sin(phase).astype(np.float32), pickup_C)

"""The table of causes of a simulated hospital."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from openclef.clinical import DISEASES, MEDICATIONS, load_codes, meds_code
from openclef.clinical.phenotypes import asserted
from openclef.errors import OpenclefError
from openclef.simulate.findings import PATTERNS
from openclef.simulate.parameters import Cause, Hospital, generator_hash, load_hospital
from openclef.simulate.traits import TRAITS

N_PATIENTS = 30_000


@pytest.fixture(scope="module")
def table() -> Hospital:
    return load_hospital("v1")


@pytest.fixture(scope="module")
def causes(table: Hospital) -> dict[str, Cause]:
    return {**table.diseases, **table.medications}


@pytest.fixture(scope="module")
def prevalences(table: Hospital) -> dict[str, float]:
    """Share of patients with each cause: mean probability over drawn people, in table order."""
    rng = np.random.default_rng(0)
    ages = np.where(
        rng.random(2 * N_PATIENTS) < 0.9,
        rng.normal(52, 20, 2 * N_PATIENTS),
        rng.uniform(6, 25, 2 * N_PATIENTS),
    )
    decades = (ages[(ages >= 6) & (ages <= 94)][:N_PATIENTS] - 50) / 10
    is_woman = rng.random(N_PATIENTS) < 0.52
    sites = list(table.sites.values())
    shares = np.array([site.share for site in sites])
    site_of = rng.choice(len(sites), N_PATIENTS, p=shares / shares.sum())
    settings = list(table.settings)
    setting_of = np.zeros(N_PATIENTS, int)
    for index, site in enumerate(sites):
        odds = np.array([p * site.settings.get(name, 1.0) for name, p in table.settings.items()])
        here = site_of == index
        setting_of[here] = rng.choice(len(settings), here.sum(), p=odds / odds.sum())

    def log_odds(cause: Cause) -> np.ndarray:
        by_setting = np.array([cause.settings.get(name, 0.0) for name in settings])
        base = np.log(cause.probability / (1 - cause.probability))
        return base + cause.per_decade * decades + cause.female * is_woman + by_setting[setting_of]

    liability = {name: rng.standard_normal(N_PATIENTS) for name in table.domains}

    def probability(x: np.ndarray, cause: Cause) -> np.ndarray:
        if cause.domain is not None:
            loading = table.domains[cause.domain].loading
            x = x * np.sqrt(1 + 0.346 * loading**2) + loading * liability[cause.domain]
        return 1 / (1 + np.exp(-x))

    severity = np.array([site.severity for site in sites])[site_of]
    has: dict[str, np.ndarray] = {}
    share: dict[str, float] = {}
    for name, disease in table.diseases.items():
        x = log_odds(disease) + disease.severe * severity
        x = x + sum(odds * has[other] for other, odds in disease.after.items())
        share[name] = float(probability(x, disease).mean())
        has[name] = rng.random(N_PATIENTS) < probability(x, disease)
    for name, drug in table.medications.items():
        spared = 1 - probability(log_odds(drug), drug)
        more = np.array([drug.settings.get(name, 0.0) for name in settings])[setting_of]
        for disease_name, p in drug.indications.items():
            spared = spared * (1 - p / (p + (1 - p) * np.exp(-more)) * has[disease_name])
        share[name] = float(1 - spared.mean())
    return share


def test_causes_are_the_phenotypes_in_their_order(table: Hospital) -> None:
    assert list(table.diseases) == [phenotype.name for phenotype in DISEASES]
    assert list(table.medications) == [phenotype.name for phenotype in MEDICATIONS]


def test_traits_and_findings_of_causes_exist(table: Hospital, causes: dict[str, Cause]) -> None:
    for name, cause in causes.items():
        assert set(cause.traits) <= set(TRAITS), name
        assert set(cause.findings) | set(cause.rates) <= set(PATTERNS), name
    assert set(table.findings) <= set(PATTERNS)
    assert {name for cause in causes.values() for name in cause.traits} == set(TRAITS)
    assert {name for cause in causes.values() for name in cause.findings} == set(PATTERNS)


def test_codes_are_listed_and_assert_their_cause_alone(table: Hospital) -> None:
    listed = {system: set(load_codes(system)) for system in ("ICD10CM", "ATC")}
    given = {
        (name, code, "ICD10CM")
        for name, disease in table.diseases.items()
        for code in (*disease.codes, *disease.left_codes, *disease.right_codes)
    }
    given |= {
        (name, code, "ATC") for name, drug in table.medications.items() for code in drug.drugs
    }
    for name, code, system in given:
        assert code in listed[system], code
        assert asserted(meds_code(code, system=system)) == name


def test_most_diagnoses_of_the_list_that_assert_a_disease_occur(table: Hospital) -> None:
    codes = {
        code
        for disease in table.diseases.values()
        for code in (*disease.codes, *disease.left_codes, *disease.right_codes)
    }
    asserting = {c for c in load_codes("ICD10CM") if asserted(meds_code(c, system="ICD10CM"))}
    assert len(codes) > 0.85 * len(asserting)


def test_codes_that_tell_a_side_come_in_pairs_and_with_a_lesion(table: Hospital) -> None:
    for name, disease in table.diseases.items():
        assert len(disease.left_codes) == len(disease.right_codes), name
        assert not set(disease.codes) & {*disease.left_codes, *disease.right_codes}, name
        assert disease.lesion or not disease.left_codes, name


def test_a_disease_follows_only_from_those_before_it(table: Hospital) -> None:
    names = list(table.diseases)
    for position, (name, disease) in enumerate(table.diseases.items()):
        assert set(disease.after) <= set(names[:position]), name
        assert all(abs(odds) <= 1.2 for odds in disease.after.values()), name
    assert all(set(drug.indications) <= set(names) for drug in table.medications.values())


def _arrows(table: Hospital) -> Iterator[tuple[str, str]]:
    for name, disease in table.diseases.items():
        yield from ((cause, name) for cause in disease.after)
    for name, drug in table.medications.items():
        yield from ((cause, name) for cause in drug.indications)


def _reached(start: str, arrows: list[tuple[str, str]]) -> set[str]:
    seen, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting += [to for source, to in arrows if source == name and to not in seen]
    return seen


def test_nothing_leads_from_a_null_to_the_eeg_nor_from_what_causes_it(
    table: Hospital, causes: dict[str, Cause]
) -> None:
    arrows = list(_arrows(table))
    back = [(to, source) for source, to in arrows]
    nulls = {name for name, cause in causes.items() if cause.null}
    assert sum(name in nulls for name in table.diseases) == 14
    assert sum(name in nulls for name in table.medications) == 12
    for null in nulls:
        upstream = _reached(null, back)
        for name in {n for up in upstream for n in _reached(up, arrows)}:
            cause = causes[name]
            assert not {**cause.traits, **cause.findings, **cause.rates}, (null, name)
    for name in set(causes) - nulls:
        assert causes[name].traits, name


def test_nulls_depend_on_age_and_sex_alone(table: Hospital, causes: dict[str, Cause]) -> None:
    for name, cause in causes.items():
        assert not (cause.null and (cause.settings or cause.domain)), name
        assert cause.null or cause.domain in table.domains, name
    assert not any(disease.null and disease.severe for disease in table.diseases.values())


def test_prevalences_fall_from_a_fifth_to_a_fiftieth(
    table: Hospital, prevalences: dict[str, float]
) -> None:
    assert min(prevalences.values()) > 0.014
    assert max(prevalences.values()) < 0.27
    assert sum(prevalences[name] for name in table.diseases) == pytest.approx(7.2, abs=0.3)
    assert sum(prevalences[name] for name in table.medications) == pytest.approx(5.2, abs=0.4)
    ranked = sorted((prevalences[name] for name in table.diseases), reverse=True)
    assert ranked[0] > 3 * ranked[30] > 6 * ranked[-1]


def test_styles_of_effect_are_mixed_and_no_two_signatures_are_alike(
    causes: dict[str, Cause],
) -> None:
    shares = np.array(
        [
            sum(abs(z) for name, z in cause.traits.items() if TRAITS[name].steady)
            / sum(abs(z) for z in cause.traits.values())
            for cause in causes.values()
            if not cause.null
        ]
    )
    assert 0.42 < np.mean(shares <= 0.25) < 0.52
    assert 0.18 < np.mean(shares >= 0.6) < 0.28
    signatures = np.array(
        [
            [cause.traits.get(name, 0.0) for name in TRAITS]
            + [2 * cause.findings.get(name, 0.0) for name in PATTERNS]
            for cause in causes.values()
            if not cause.null
        ]
    )
    signatures /= np.linalg.norm(signatures, axis=1, keepdims=True)
    cosines = signatures @ signatures.T - np.eye(len(signatures))
    assert cosines.max() < 0.9


def test_every_trait_is_shifted_both_ways_by_many_causes(causes: dict[str, Cause]) -> None:
    for trait in TRAITS:
        shifts = [c.traits[trait] for c in causes.values() if trait in c.traits]
        assert len(shifts) >= 12, trait
        assert min(shifts) < 0 < max(shifts), trait
        assert max(map(abs, shifts)) <= 3.2, trait


def test_known_pharmacology_and_neurology_hold(table: Hospital) -> None:
    drugs, diseases = table.medications, table.diseases
    for name in ("benzodiazepines", "barbiturates"):
        assert drugs[name].traits["beta_uv"] > 0
        assert drugs[name].findings["diffuse_beta"] >= 0.4
    assert drugs["ssris"].traits["rem_drive"] < 0
    assert drugs["levetiracetam"].rates["spikes"] < 1
    assert diseases["alzheimer_disease"].traits["pdr_hz"] < 0
    assert diseases["narcolepsy"].traits["rem_drive"] > 0 > diseases["narcolepsy"].traits[
        "sleep_inertia_s"
    ]  # fmt: skip
    assert diseases["ischemic_stroke"].lesion
    assert diseases["ischemic_stroke"].findings["focal_slowing"] > 0.3


def test_the_second_site_is_the_shortcut(table: Hospital) -> None:
    first, second = list(table.sites.values())[:2]
    assert second.severity > first.severity
    assert second.lowpass_hz < first.lowpass_hz
    assert second.settings["icu"] > 1


def test_sudden_and_congenital_exclude_one_another(table: Hospital) -> None:
    assert not [n for n, d in table.diseases.items() if d.sudden and d.congenital]
    assert table.diseases["ischemic_stroke"].sudden
    assert table.diseases["down_syndrome"].congenital
    slow = table.diseases["alzheimer_disease"]
    assert not slow.sudden
    assert not slow.congenital


def test_the_second_draw_is_the_same_graph_with_other_numbers(table: Hospital) -> None:
    other = load_hospital("v1_shifted")
    assert (other.version, table.version) == ("v1_shifted", "v1")
    assert not set(other.sites) & set(table.sites)
    for kind in ("diseases", "medications"):
        for name, old in getattr(table, kind).items():
            new = getattr(other, kind)[name]
            assert new.probability != old.probability
            for field in ("traits", "findings", "rates", "settings"):
                assert getattr(new, field).keys() == getattr(old, field).keys()
            assert all(new.traits[t] * z > 0 for t, z in old.traits.items())
            # What treats still treats, what provokes still provokes.
            assert all((new.rates[f] < 1) == (rate < 1) for f, rate in old.rates.items())
            assert (new.settings, new.per_decade) == (old.settings, old.per_decade)
    for name, drug in table.medications.items():
        redrawn = other.medications[name].indications
        assert redrawn.keys() == drug.indications.keys()
        assert all(redrawn[d] != p for d, p in drug.indications.items())
    for name, base in table.findings.items():
        assert other.findings[name].probability != base.probability
        assert other.findings[name].settings.keys() == base.settings.keys()


def test_the_generator_hash_covers_simulator_and_clinical_lists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for package in ("clinical", "simulate"):
        source = Path(str(resources.files(f"openclef.{package}")))
        shutil.copytree(source, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    before = generator_hash()
    monkeypatch.setattr(resources, "files", lambda name: tmp_path / name.rpartition(".")[2])
    assert generator_hash() == before
    hashes = {before}
    for file in ("clinical/atc_nlh.json", "clinical/codes.py", "simulate/hospitals/v1.toml"):
        with (tmp_path / file).open("a") as stream:
            stream.write("\n")
        hashes.add(generator_hash())
    assert len(hashes) == 4


def test_an_unknown_hospital_names_the_known_ones() -> None:
    with pytest.raises(OpenclefError, match=r"unknown hospital 'v0'.*v1"):
        load_hospital("v0")

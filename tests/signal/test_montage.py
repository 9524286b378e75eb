"""All labels of a file weighed together: as recorded, solved from derivations, or dropped."""

from __future__ import annotations

import json
from pathlib import Path

import mne
import numpy as np
import pytest

from openclef.errors import RecordingError
from openclef.signal.labels import canonical_name
from openclef.signal.montage import (
    BESIDE_CHAINS,
    BIPOLAR,
    GRID,
    MARKED_BAD,
    NOT_EEG,
    UNCONNECTED,
    UNKNOWN_REFERENCE,
    Montage,
    match_channels,
    order_channels,
)
from openclef.types import CHANNELS, Recording

LEFT = "Fp1-F7 F7-T3 T3-T5 T5-O1 Fp1-F3 F3-C3 C3-P3 P3-O1"
RIGHT = "Fp2-F8 F8-T4 T4-T6 T6-O2 Fp2-F4 F4-C4 C4-P4 P4-O2"
BANANA = f"{LEFT} {RIGHT} Fz-Cz Cz-Pz".split()
# The TCP montage of the TUH seizure corpus.
TCP = f"{LEFT} {RIGHT} A1-T3 T3-C3 C3-Cz Cz-C4 C4-T4 T4-A2".split()
CHB_MIT = [
    "FP1-F7", "F7-T7", "T7-P7", "P7-O1", "FP1-F3", "F3-C3", "C3-P3", "P3-O1", "FP2-F4", "F4-C4",
    "C4-P4", "P4-O2", "FP2-F8", "F8-T8", "T8-P8", "P8-O2", "FZ-CZ", "CZ-PZ", "P7-T7", "T7-FT9",
    "FT9-FT10", "FT10-T8", "T8-P8",
]  # fmt: skip
CHB_MIT_SOLVED = tuple(name for name in CHANNELS if name not in {"Fz", "Cz", "Pz"})
REFERENCES = "REF REF1 LE LER CLE AR AV AVG A1 A2 M1 M2 AA G2 CS2 M1M2"
SPELLED = {"Ref.": "REF", "a1a2": "A1A2", "A1/A2": "A1A2", "(A1+A2)": "A1A2", "((A1+A2)/2)": "A1A2"}
OLD_NAMES = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6"}
DUPLICATES = [  # labels, kept, dropped
    ("C3-REF F3-LE C3-LE O1-LE", "C3-LE", "C3-REF"),  # most electrodes are against LE
    ("C3-LE F3-LE C3-REF O1-LE", "C3-LE", "C3-REF"),
    ("C3-REF C3-LE", "C3-REF", "C3-LE"),  # a tie
    ("T3 C3 T7", "T3", "T7"),
    ("C3-0 C3-1 F3", "C3-0", "C3-1"),
]
GRIDS = [
    "C1 C2 C3 C4 C5 C6 C7 C8",  # 7 and 8 are no scalp sites
    "C3 C4 C12",
    "F3-REF F4-REF F12-REF",
    "F1 F2 F3 F4 F5 F6 F7 F8",  # no cap has these without AF or FC
    "P1 P2 P3 P4",
    "P5 P6 P7 P8 P9 P10 P11",  # though P7 is called T5
    "POL_T1 POL_T2 POL_T3 POL_T4 POL_T5 POL_T6 POL_T7 POL_T8",
    "F1-F2 F2-F3 F3-F4 F5-F6 F6-F7 F7-F8",
    "C3-C4 C4-C5",
]
CAPS = [
    "T1 T2 T3 T4 T5 T6",
    "C3 C4 C1 C2 C5 C6 FC1 FC2 CP1 P1 P2 P3 P4 P5 P6 P9 P10 F1 F2 F3 F4 F5 F6 F9 F10",
    "F7 F8 T7 T8 P7 P8 C7",  # C7: the neck
    "C3-G2 F3-G2 G2 G12 G24",
]


def _reasons(montage: Montage) -> dict[str, str]:
    """Label -> why it was dropped, of a montage that picks or drops every channel once."""
    dropped = [position for position, _ in montage.dropped]
    assert sorted([*montage.picks, *dropped]) == list(range(len(montage.labels)))
    return {montage.labels[position]: reason for position, reason in montage.dropped}


def _found(montage: Montage) -> dict[str, tuple[str, str]]:
    """Electrode -> label and reference, of a montage as recorded."""
    assert montage.mixing is None
    labels = [montage.labels[pick] for pick in montage.picks]
    parts = zip(montage.names, labels, montage.references, strict=True)
    return {name: (label, reference) for name, label, reference in parts}


@pytest.mark.parametrize("written", [*REFERENCES.split(), *SPELLED])
def test_the_reference_is_the_one_the_label_states(written: str) -> None:
    for separator in ("-", ":", "/", "_", " - "):
        label = f"EEG Fp1{separator}{written}"
        assert _found(match_channels([label])) == {"Fp1": (label, SPELLED.get(written, written))}


def test_matching_tells_positions_references_and_what_was_dropped() -> None:
    montage = match_channels(["EKG", "EEG C3-A2", "EEG C4-A1", "T7", "F3-C3", "O1-REF"])
    assert montage.names == ("O1", "T3", "C3", "C4")
    assert montage.picks == (5, 3, 1, 2)
    assert montage.references == ("REF", "not stated", "A2", "A1")
    assert montage.mixing is None
    assert montage.dropped == ((0, NOT_EEG), (4, BIPOLAR))


def test_the_sleep_montage_keeps_a_reference_per_channel() -> None:
    scalp = ["F3-M2", "F4-M1", "C3-M2", "C4-M1", "O1-M2", "O2-M1"]
    found = _found(match_channels(["E1-M2", "E2-M2", *scalp, "Chin1-Chin2"]))
    assert list(found) == ["O1", "O2", "C3", "C4", "F4", "F3"]
    assert set(found.values()) == {(label, label[-2:]) for label in scalp}


@pytest.mark.parametrize(("labels", "kept", "dropped"), DUPLICATES)
def test_of_two_channels_of_an_electrode_one_is_kept(labels: str, kept: str, dropped: str) -> None:
    montage = match_channels(labels.split())
    assert kept in {label for label, _ in _found(montage).values()}
    assert _reasons(montage) == {dropped: f"duplicate of {kept}"}
    assert match_channels(["C3", "F3", "C3"]).dropped == ((2, "duplicate of C3"),)


def test_a_channel_marked_bad_is_dropped_and_its_double_used() -> None:
    montage = match_channels(["EEG C3-REF ", "EEG C3-LE", "F3", "EKG"], bad=["EEG C3-REF", "EKG"])
    assert montage.picks == (1, 2)
    assert montage.dropped == ((0, MARKED_BAD), (3, MARKED_BAD))


@pytest.mark.parametrize("contacts", GRIDS)
def test_contacts_of_a_numbered_grid_are_not_taken_for_the_scalp(contacts: str) -> None:
    montage = match_channels([*contacts.split(), "Fp1", "Fz"])
    assert set(montage.names) == {"Fp1", "Fz"}
    assert set(_reasons(montage).values()) <= {GRID, NOT_EEG}


@pytest.mark.parametrize("scalp", CAPS)
def test_a_cap_is_not_taken_for_a_grid(scalp: str) -> None:
    labels = scalp.split()
    expected = {name for label in labels if (name := canonical_name(label))}
    assert set(match_channels(labels).names) == expected
    # Nor are pairs across the midline neighbours on a shaft.
    across = ["F3-F4", "C3-C4", "P3-P4", "O1-O2", "F3-C3", "C3-P3", "P3-O1"]
    assert len(match_channels(across).names) == 8


def test_pairs_against_one_common_electrode_are_referential() -> None:
    found = _found(match_channels(["Fp1-Cz", "F3-Cz", "O1-Cz", "Oz-Cz", "A1-A2"]))
    assert found == {name: (f"{name}-Cz", "Cz") for name in ("O1", "F3", "Fp1")}
    assert set(match_channels(["C3-FCz", "C4-FCz", "Pz-FCz"]).references) == {"FCz"}
    assert not match_channels(["Fp1-Cz", "F3-Cz"]).names  # two are too few


def _potentials(labels: list[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random potentials of the electrodes of bipolar labels, and the derivations `[n, S]`."""
    rng = np.random.default_rng(5)
    ends = [label.upper().split("-") for label in labels]
    pairs = [[OLD_NAMES.get(end, end) for end in pair] for pair in ends]
    of = {end: rng.normal(size=50) for end in sorted({end for pair in pairs for end in pair})}
    return of, np.array([of[first] - of[second] for first, second in pairs])


def _solution(montage: Montage, derivations: np.ndarray) -> np.ndarray:
    assert montage.mixing is not None
    assert montage.mixing.dtype == np.float32
    assert montage.mixing.shape == (len(montage.names), len(montage.picks))
    return montage.mixing @ derivations[list(montage.picks)]


def test_the_tcp_montage_is_solved_against_the_linked_ears() -> None:
    labels = [f"EEG {label}" for label in TCP]
    montage = match_channels(labels)
    assert montage.names == tuple(name for name in CHANNELS if name not in {"Fz", "Pz"})
    assert set(montage.references) == {"linked ears, solved from bipolar chains"}
    of, derivations = _potentials(TCP)
    expected = [of[name.upper()] - (of["A1"] + of["A2"]) / 2 for name in montage.names]
    np.testing.assert_allclose(_solution(montage, derivations), expected, atol=1e-5)


def test_the_chb_mit_montage_is_solved_against_its_average() -> None:
    montage = match_channels(CHB_MIT)
    assert montage.names == CHB_MIT_SOLVED
    assert set(montage.references) == {"average of 16, solved from bipolar chains"}
    of, derivations = _potentials(CHB_MIT)
    average = np.mean([of[name.upper()] for name in montage.names], axis=0)
    expected = [of[name.upper()] - average for name in montage.names]
    np.testing.assert_allclose(_solution(montage, derivations), expected, atol=1e-5)
    assert montage.dropped[:2] == ((16, UNCONNECTED), (17, UNCONNECTED))
    assert montage.dropped[2:] == ((18, "duplicate of T7-P7"), (22, "duplicate of T8-P8"))
    in_mne = {14: "T8-P8-0", 22: "T8-P8-1"}
    renamed = match_channels([in_mne.get(i, label) for i, label in enumerate(CHB_MIT)])
    assert renamed.picks == montage.picks
    np.testing.assert_array_equal(renamed.mixing, montage.mixing)


@pytest.mark.parametrize("seed", range(20))
def test_any_connected_chain_is_solved_by_least_squares(seed: int) -> None:
    """Noise on each derivation of a random graph; NumPy's lstsq as the oracle."""
    rng = np.random.default_rng(seed)
    nodes = [str(name) for name in rng.permutation([*CHANNELS[: 8 + seed % 12], "Oz", "FT9"])]
    tree = [(node, nodes[rng.integers(i + 1)]) for i, node in enumerate(nodes[1:])]
    pairs = [*tree, *(rng.permutation(nodes)[:2] for _ in range(seed))]
    labels = list(dict.fromkeys("-".join(sorted(pair, reverse=True)) for pair in pairs))
    incidence = np.array(
        [[(a == node) - (b == node) for node in nodes] for a, b in (x.split("-") for x in labels)]
    )
    derivations = rng.normal(size=(len(labels), 30))
    solved = np.linalg.lstsq(incidence.astype(float), derivations, rcond=None)[0]
    montage = match_channels(labels)
    assert montage.names == tuple(name for name in CHANNELS if name in nodes)
    rows = solved[[nodes.index(name) for name in montage.names]]
    np.testing.assert_allclose(_solution(montage, derivations), rows - rows.mean(0), atol=1e-5)


def test_only_derivations_that_matter_are_picked() -> None:
    montage = match_channels([*TCP, "O2-Oz"])
    assert len(montage.picks) == len(TCP)
    assert _reasons(montage) == {"O2-Oz": BIPOLAR}


def test_the_unconnected_banana_is_refused_with_its_chains() -> None:
    montage = match_channels(BANANA)
    assert montage.names == montage.picks == montage.references == ()
    assert montage.mixing is None
    message = montage.explain_empty()
    assert "18 of them: bipolar derivation" in message
    for chain in ("Fp1 F7 T3 T5 O1 F3 C3 P3", "Fp2 F8 T4 T6 O2 F4 C4 P4", "Fz Cz Pz"):
        assert chain in message
    assert not match_channels(["Fp1-F7", "ECG"]).names  # connected, but two electrodes only
    assert not match_channels(["EEG Fpz-Cz", "EEG Pz-Oz", "EOG horizontal"]).names  # Sleep-EDF


def test_a_bad_derivation_can_break_the_chain() -> None:
    montage = match_channels(TCP, bad=["C3-Cz", "Cz-C4"])
    assert montage.names == ()
    assert "2 of them: marked bad" in montage.explain_empty()


def test_a_few_channels_to_the_ear_beside_derivations_are_kept() -> None:
    labels = ["C3-A2", "C4-A1", "Fz-Cz", "Cz-Pz", "Pz-Oz", "T3-T5", "T5-O1"]
    assert _found(match_channels(labels)) == {"C3": ("C3-A2", "A2"), "C4": ("C4-A1", "A1")}


def test_of_referential_channels_and_derivations_those_win_that_give_more_electrodes() -> None:
    referential = [f"EEG {name}-REF" for name in CHANNELS]
    montage = match_channels([*TCP, *referential, "EEG A1-REF"])
    assert montage.mixing is None
    assert set(montage.references) == {"REF"}
    assert _reasons(montage)["C3-Cz"] == _reasons(montage)["T4-A2"] == BIPOLAR
    alone = match_channels(TCP)
    montage = match_channels([*TCP, "EEG C3-REF", "EEG A1-REF"])
    assert montage.names == alone.names
    assert _reasons(montage)["EEG C3-REF"] == BESIDE_CHAINS
    # A reference of other electrodes does not: FC1 and CP1 in some of CHB-MIT's files.
    assert match_channels([*CHB_MIT, "FC1-Ref", "CP1-Ref"]).names == CHB_MIT_SOLVED


def test_the_record_is_json_and_shows_no_free_text() -> None:
    labels = ["Meier, Anna *12.03.61", "EEG C3-A2", "PHOTIC-REF", "C3", "Fp1-Meier"]
    assert json.loads(json.dumps(match_channels(labels).record())) == {
        "mapped": {"C3": {"label": "EEG C3-A2", "reference": "A2"}},
        "dropped": [
            {"label": "#0", "reason": NOT_EEG},
            {"label": "PHOTIC-REF", "reason": NOT_EEG},
            {"label": "C3", "reason": "duplicate of EEG C3-A2"},
            {"label": "#4", "reason": UNKNOWN_REFERENCE},
        ],
        "solved_from_bipolar": False,
    }
    assert "Meier" not in match_channels(labels[:1]).explain_empty()


def test_the_record_of_a_solution_names_its_derivations() -> None:
    record = match_channels(TCP).record()
    json.dumps(record)
    assert record["solved_from_bipolar"] is True
    assert record["mapped"]["T4"] == {
        "label": "F8-T4, T4-T6, C4-T4, T4-A2",
        "reference": "linked ears, solved from bipolar chains",
    }


def _recording(names: tuple[str, ...], hidden: tuple[str, ...] = ()) -> Recording:
    signal_uv = np.arange(1, len(names) + 1, dtype=np.float32)[:, np.newaxis].repeat(8, axis=1)
    return Recording(signal_uv, 100.0, names, np.isin(names, hidden))


def test_ordering_moves_each_signal_to_its_row_and_hides_the_missing() -> None:
    ordered = order_channels(_recording(("Fp2", "T7", "EKG", "O1")))
    assert ordered.ch_names == CHANNELS
    by_name = dict(zip(CHANNELS, ordered.signal_uv[:, 0], strict=True))
    assert (by_name.pop("Fp2"), by_name.pop("T3"), by_name.pop("O1")) == (1, 2, 4)
    assert set(by_name.values()) == {0.0}
    np.testing.assert_array_equal(ordered.channel_mask, ordered.signal_uv[:, 0] == 0)


def test_a_channel_hidden_before_stays_hidden_and_ordering_twice_changes_nothing() -> None:
    once = order_channels(_recording(CHANNELS[::-1], hidden=("Cz",)))
    assert np.flatnonzero(once.channel_mask) == CHANNELS.index("Cz")
    assert not once.signal_uv[CHANNELS.index("Cz")].any()
    twice = order_channels(once)
    np.testing.assert_array_equal(once.signal_uv, twice.signal_uv)
    np.testing.assert_array_equal(once.channel_mask, twice.channel_mask)


def test_ordering_solves_derivations_without_the_hidden_ones() -> None:
    of, derivations = _potentials(TCP)
    derivations[TCP.index("F3-C3")] = 1e6
    mask = np.isin(TCP, "F3-C3")
    signal_uv = derivations.astype(np.float32)
    ordered = order_channels(Recording(signal_uv, 100.0, tuple(TCP), mask))
    assert set(np.array(CHANNELS)[ordered.channel_mask]) == {"Fz", "Pz"}
    expected = of["F3"] - (of["A1"] + of["A2"]) / 2
    np.testing.assert_allclose(ordered.signal_uv[CHANNELS.index("F3")], expected, atol=1e-5)
    assert ordered.signal_uv.dtype == np.float32


def test_no_common_channel_is_an_error_that_names_both_sides() -> None:
    names = tuple(f"X{number}" for number in range(1, 12))
    with pytest.raises(RecordingError, match=r"O1 O2 T6 .* Fp2; given \(11\): X1, .*, X8, \.\.\."):
        order_channels(_recording(names))
    with pytest.raises(RecordingError, match="1 of them: bipolar"):
        order_channels(_recording(("Fp1-F7", "ECG")))


def _edf_labels(path: Path) -> list[str]:
    """Labels straight from the bytes of an EDF or BDF header, also of a damaged file."""
    header = path.read_bytes()[:65536]
    n_signals = int(header[252:256])
    return [header[256 + 16 * i : 272 + 16 * i].decode("latin-1").strip() for i in range(n_signals)]


ZOO = {  # (electrodes found, reference) -> files
    (0, None): """SC4001EC-Hypnogram.edf derived_bipolar_banana.edf mne_test_uneven_samp.edf
        short_psg.bdf short_psg.edf test_reduced.edf""",
    (1, "not stated"): "edfio_test_subsecond.edf",
    (8, "not stated"): "eegmat_8ch_Subject00_2.edf",
    (16, "not stated"): "derived_missing_channels.edf",
    (19, "not stated"): """derived_24bit.bdf derived_bad_physmin.edf derived_bad_startdate.edf
        derived_clinical_annotations.edf derived_header_only.edf derived_nrecords_minus1.edf
        derived_modern_names_reordered.edf derived_truncated_midrecord.edf derived_units_V.edf
        mne_test.bdf mne_test_edf_stim_channel.edf""",
    (19, "REF"): "chtypes_edf.edf derived_tuh_style_names.edf",
}
IN_MNE = {
    "test_raw.set": 0,
    "test_1ch.gdf": 0,
    "derived_raw.fif": 19,
    "Brainvision/test_NO.vhdr": 0,
}
COHORTS = {"eegmat/*": 19, "iiic_sparcnet/edf": 19, "guinea_bissau_epilepsy/edf": 10}


@pytest.mark.real_data
def test_every_edf_and_bdf_of_the_zoo(real_data: Path) -> None:
    files = [p for p in (real_data / "format_zoo").iterdir() if p.suffix in {".edf", ".bdf"}]
    found = {}
    for path in files:
        if path.stat().st_size:
            montage = match_channels(_edf_labels(path))
            assert montage.mixing is None
            assert len(set(montage.references)) <= 1
            found[path.name] = (len(montage.names), next(iter(montage.references), None))
    assert found == {name: outcome for outcome, names in ZOO.items() for name in names.split()}


@pytest.mark.real_data
@pytest.mark.parametrize("name", IN_MNE)
def test_other_formats_as_mne_reads_them(real_data: Path, name: str) -> None:
    raw = mne.io.read_raw(real_data / "format_zoo" / name, preload=False, verbose="ERROR")
    assert len(match_channels(raw.ch_names).names) == IN_MNE[name]


@pytest.mark.real_data
@pytest.mark.parametrize("folder", COHORTS)
def test_real_cohorts_are_kept_as_recorded(real_data: Path, folder: str) -> None:
    paths = sorted(real_data.glob(f"{folder}/*.edf"))
    assert len(paths) >= 12
    for path in paths:
        montage = match_channels(_edf_labels(path))
        assert len(_found(montage)) == COHORTS[folder], path.name
        assert set(_reasons(montage).values()) <= {NOT_EEG, BIPOLAR}

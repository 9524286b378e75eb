"""The grammar of single labels: electrode or not, and what may be shown of them."""

from __future__ import annotations

import mne
import pytest

from openclef.signal.labels import canonical_name, shown_label
from openclef.signal.montage import BIPOLAR, NOT_EEG, UNKNOWN_REFERENCE, match_channels
from openclef.types import CHANNELS

OLD_NAMES = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6"}
ELECTRODES = [
    ("FP1", "Fp1"), ("cz", "Cz"), ("Fp1.", "Fp1"), ("C3..", "C3"), (" O 2 ", "O2"),
    ("EEG Fp1", "Fp1"), ("eeg_fp1", "Fp1"), ("EEG:Fp1", "Fp1"), ("EEG-Fp1", "Fp1"),
    ("EEG.Fp1", "Fp1"), ("POL Fp1", "Fp1"), ("POL T7", "T3"), ("EEG FP2-REF", "Fp2"),
    ("EEG-F7-LE", "F7"), ("EEG T3-Ref", "T3"), ("EEG Fp1 - Ref.", "Fp1"), ("T8-AVG", "T4"),
    ("P7-A1", "T5"), ("p8-m1", "T6"), ("Fz-AR", "Fz"), ("C4-M2", "C4"), ("EEG Pz - A2", "Pz"),
    ("C3:M2", "C3"), ("C3/A2", "C3"), ("C3_A2", "C3"), ("C3M2", "C3"), ("EEG(C3-A2)", "C3"),
    ("Fp1 [uV]", "Fp1"), ("Fp1-Ref (µV)", "Fp1"), ("Fp1 uV", "Fp1"),
    ("Fp1-0", "Fp1"), ("EEG Fp1-REF-1", "Fp1"),  # as MNE numbers repeated labels
]  # fmt: skip
NOT_ELECTRODES = (
    "CP3, FC3, PO3, AF3, FT7, A1, M2, Oz, Fpz, T1, PG1, ECG1, C3P, F3A, C3', C'3, $C3, C03, "
    "SEEG C3, 3, EEG 003, EEG, LOC-REF, EEG EKG1-REF, EEG 20-REF, PHOTIC-REF, IBI, BURSTS, "
    "E1-M2, -, ."
)
SHOWN = (
    "Fp1, EEG FP1-REF, C3-(A1+A2), AFF5h, FT10, M1, EEG EKG1-REF, EEG 20-REF, EEG LOC-REF, "
    "PHOTIC-REF, PULSE RATE, RESP ABDOMEN-REF, DC1-DC, X12, B16, EEG 003, POL $A1, POL DC03, "
    "SaO2 X9, SpO2, Status, SUPPR, EDF Annotations, Chin1-Chin2, LLeg, Snore, EOG horizontal, "
    "EEG C3P-REF 1"
)
HIDDEN = [
    "", "-", "Anna", "EEG Meier", "Fp1-Anna", "12.03.61", "19610312", "EKG 1961", "ECG 12 03",
    "AV LE", "Le", "EEG\x00Anna", "Müller", "ECG*Anna",
]  # fmt: skip


@pytest.mark.parametrize(("label", "name"), [*zip(CHANNELS, CHANNELS, strict=True), *ELECTRODES])
def test_a_referential_label_names_its_electrode(label: str, name: str) -> None:
    assert canonical_name(label) == name


@pytest.mark.parametrize(
    "label", ["Fp1-F7", "F3-C3", "EEG T3-T5", "Fz-Cz", "Fpz-Cz", "EEG A2-A1", "Fp1-F7-0", "F3C3"]
)
def test_a_bipolar_derivation_is_not_an_electrode(label: str) -> None:
    assert canonical_name(label) is None
    montage = match_channels([label])
    assert montage.names == ()
    assert montage.dropped == ((0, BIPOLAR),)


@pytest.mark.parametrize("label", NOT_ELECTRODES.split(", "))
def test_anything_else_is_not_an_electrode(label: str) -> None:
    assert canonical_name(label) is None
    assert match_channels([label, ""]).dropped == ((0, NOT_EEG), (1, NOT_EEG))


@pytest.mark.parametrize("label", ["Fp1-SD", "C3-4", "EEG O1-Mueller", "C3-C3", "T3-T7"])
def test_an_electrode_against_something_unknown_is_not_taken(label: str) -> None:
    assert canonical_name(label) is None
    assert match_channels([label]).dropped == ((0, UNKNOWN_REFERENCE),)


@pytest.mark.parametrize("label", SHOWN.split(", "))
def test_a_label_of_known_words_is_shown(label: str) -> None:
    assert shown_label(f" {label}\r\n", 3) == label


@pytest.mark.parametrize("label", HIDDEN)
def test_a_label_of_anything_else_is_shown_as_its_position(label: str) -> None:
    assert shown_label(label, 7) == "#7"


@pytest.mark.filterwarnings("ignore:Montage name:FutureWarning")
def test_every_electrode_of_the_10_5_system_is_known() -> None:
    """MNE's list as the oracle: only the 19 and their new names map, none is hidden."""
    names = mne.channels.make_standard_montage("standard_1005").ch_names
    mapped = {name for name in names if canonical_name(name)}
    assert mapped == {*CHANNELS, *OLD_NAMES}
    assert all(shown_label(name, 0) == name for name in names)
    others = [name for name in names if name not in {"A1", "A2", "M1", "M2", "Cz"}]
    assert all(match_channels([f"Cz-{name}"]).dropped == ((0, BIPOLAR),) for name in others)

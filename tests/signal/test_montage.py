"""Labels as hospitals write them, and the 19 electrodes they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from openclef.errors import RecordingError
from openclef.signal import canonical_name, match_channels, order_channels
from openclef.signal.montage import BIPOLAR, DUPLICATE, GRID, NOT_EEG
from openclef.types import CHANNELS, Recording


@pytest.mark.parametrize(
    ("label", "name"),
    [
        *[(name, name) for name in CHANNELS],
        ("FP1", "Fp1"),
        ("cz", "Cz"),
        ("Fp1.", "Fp1"),
        ("C3..", "C3"),
        (" O 2 ", "O2"),
        ("EEG Fp1", "Fp1"),
        ("EEG FP2-REF", "Fp2"),
        ("EEG-F7-LE", "F7"),
        ("EEG T3-Ref", "T3"),
        ("POL T7", "T3"),
        ("T8-AVG", "T4"),
        ("P7-A1", "T5"),
        ("p8-m1", "T6"),
        ("Fz-AR", "Fz"),
        ("C4-M2", "C4"),
        ("EEG Pz - A2", "Pz"),
        ("Fp1-0", "Fp1"),  # as MNE numbers repeated labels
        ("EEG Fp1-REF-1", "Fp1"),
    ],
)
def test_a_referential_label_names_its_electrode(label: str, name: str) -> None:
    assert canonical_name(label) == name


@pytest.mark.parametrize("label", ["Fp1-F7", "F3-C3", "EEG T3-T5", "Fz-Cz", "Fpz-Cz", "EEG A2-A1"])
def test_a_bipolar_derivation_is_not_an_electrode(label: str) -> None:
    assert canonical_name(label) is None
    assert match_channels([label]).dropped == ((label, BIPOLAR),)


@pytest.mark.parametrize(
    "label", ["", "EEG", "ECG ECG1", "Oz", "AF3", "T1", "POL $A1", "F3A", "EEG 003"]
)
def test_anything_else_is_not_an_electrode(label: str) -> None:
    assert canonical_name(label) is None
    assert match_channels([label]).dropped == ((label, NOT_EEG),)


def test_matching_tells_positions_references_and_what_was_dropped() -> None:
    match = match_channels(["EKG", "EEG C3-A2", "EEG C4-A1", "T7", "T3", "F3-C3", "O1"])
    assert match.index == {"O1": 6, "T3": 3, "C3": 1, "C4": 2}
    assert list(match.index) == [name for name in CHANNELS if name in match.index]
    assert match.references == ("A1", "A2")
    assert match.dropped == (("EKG", NOT_EEG), ("T3", DUPLICATE), ("F3-C3", BIPOLAR))


def test_contacts_of_a_numbered_grid_are_not_taken_for_the_scalp() -> None:
    """C1..C32 of a BioSemi cap: its C3 lies elsewhere than the 10-20 system's."""
    grid = [f"C{number}" for number in range(1, 33)]
    match = match_channels([*grid, "F3"])
    assert match.index == {"F3": 32}
    assert ("C3", GRID) in match.dropped
    assert match_channels([f"P{number}" for number in range(1, 11)]).index  # a 10-10 cap


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


def test_a_channel_hidden_before_stays_hidden_and_is_zeroed() -> None:
    ordered = order_channels(_recording(("C3", "C4"), hidden=("C4",)))
    row = CHANNELS.index("C4")
    assert ordered.channel_mask[row]
    assert not ordered.signal_uv[row].any()


def test_ordering_twice_changes_nothing() -> None:
    once = order_channels(_recording(CHANNELS[::-1], hidden=("Cz",)))
    twice = order_channels(once)
    np.testing.assert_array_equal(once.signal_uv, twice.signal_uv)
    np.testing.assert_array_equal(once.channel_mask, twice.channel_mask)


def test_no_common_channel_is_an_error_that_names_both_sides() -> None:
    names = tuple(f"X{number}" for number in range(1, 12))
    with pytest.raises(RecordingError, match=r"O1 O2 T6 .* Fp2; given \(11\): X1, .*, X8, \.\.\."):
        order_channels(_recording(names))
    with pytest.raises(RecordingError, match="1 of them: bipolar"):
        order_channels(_recording(("Fp1-F7", "ECG")))

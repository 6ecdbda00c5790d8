"""Without network, a data set that is kept on this machine is read as from the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from depthprune.calibration.sources import SOURCES, read_documents
from depthprune.errors import CalibrationError

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def _kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set as `datasets` keeps one that it once read from the hub."""
    import datasets

    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(json.dumps({"text": f"row {i}"}) for i in range(30)))
    made = datasets.load_dataset(
        "json", data_files=str(source), cache_dir=str(tmp_path / "made"), split="train"
    )
    arrow = Path(made.cache_files[0]["filename"])
    folder = tmp_path / "cache" / "owner___set" / "default" / "0.0.0" / _COMMIT
    folder.mkdir(parents=True)
    shutil.copy(arrow, folder / "set-train.arrow")
    info = json.loads((arrow.parent / "dataset_info.json").read_text(encoding="utf-8"))
    info |= {"dataset_name": "set", "config_name": "default"}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def _texts(**options: str) -> list[str]:
    return [d.text for d in read_documents(SOURCES.get("hub"), "hub", "owner/set", options)]


@pytest.mark.usefixtures("_kept")
def test_it_is_read_from_the_cache_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert _texts() == [f"row {i}" for i in range(30)]
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("_kept")
@pytest.mark.parametrize("options", [{"rows": "5"}, {"rows": "5", "revision": _COMMIT}])
def test_the_first_rows_are_read_though_nothing_can_be_streamed(options: dict[str, str]) -> None:
    assert _texts(**options) == [f"row {i}" for i in range(5)]


@pytest.mark.usefixtures("_kept")
def test_another_revision_than_the_one_that_is_kept_is_refused() -> None:
    with pytest.raises(CalibrationError, match=f"what is kept is of revision {_COMMIT}, not ffff"):
        _texts(revision="f" * 40)


def test_a_data_file_that_was_downloaded_before_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub

    file = tmp_path / "part.json"
    file.write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: str(file))
    assert _texts(files="en/part.json", rows="1") == ["one"]

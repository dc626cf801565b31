"""Published results: the data, and on which lists and metrics they stand beside measured ones."""

import html
import json
import re
from datetime import date
from pathlib import Path

import pytest

from evaluation.evaluate import Evaluation, MeasuredClip, System, log_table, write_metrics
from evaluation.measures import COLUMNS, Clip, Ratio
from evaluation.published import _DATA, NamedList, Published, named_list, published_results
from evaluation.report import write_report
from evaluation.wavlm_speakers import KIND as WAVLM
from utils.log import set_up_logging

CONTENT = json.loads(_DATA.read_text(encoding="utf-8"))
CHINESE = NamedList("seed-tts-eval test_zh", 2020)


def results(found: NamedList | None, **changes: object) -> Published:
    usual = {"is_continuation": False, "has_own_voice": False, "speaker_kind": WAVLM, "normalizer": "seed-tts-eval"}
    num_texts = found.num_texts if found is not None else 1
    return published_results(found, **{"num_texts": num_texts, **usual, **changes})  # type: ignore[arg-type]


def test_every_published_value_has_a_list_a_model_and_a_source_that_was_checked() -> None:
    assert date.fromisoformat(CONTENT["looked_up"])
    columns = {column.key: column for column in COLUMNS}
    for row in CONTENT["results"]:
        assert row.keys() <= {"list", "system", "source", "note", "values"}
        assert row["list"] in CONTENT["lists"] and row["values"]
        source = CONTENT["sources"][row["source"]]
        assert source["url"].startswith("https://") and source["title"] and source["checked"]
        for key, (value, model) in row["values"].items():
            assert model in CONTENT["models"]
            # Percent where the table shows percent, and a similarity or a rating otherwise.
            assert columns[key].scale == 100 or value < (1 if key.startswith("sim") else 5)
            is_mandarin = CONTENT["lists"][row["list"]]["language"] == "cmn"
            assert (key != "cer" or is_mandarin) and (key != "wer" or not is_mandarin)
    used = {row["source"] for row in CONTENT["results"]}, {row["list"] for row in CONTENT["results"]}
    assert used[0] == set(CONTENT["sources"]) and used[1] <= set(CONTENT["lists"])
    assert {model for row in CONTENT["results"] for _, model in row["values"].values()} == set(CONTENT["models"])


def test_a_list_has_the_results_that_were_published_on_it_and_no_others() -> None:
    found = results(CHINESE)
    [icefall] = [row for row in found.rows if row.system == "VALL-E of icefall"]
    assert icefall.values["cer"] == 0.0433
    # The others' rates are means of the texts' rates.
    assert "7,000 hours" in icefall.note and "all texts together" in icefall.note
    assert all("wer" not in row.values for row in found.rows) and found.looked_up == CONTENT["looked_up"]
    assert "MaskGCT" in {row.system for row in results(NamedList("seed-tts-eval test_en", 1088)).rows}
    names = ("librispeech-pc test-clean cross_sentence", "vctk 3s", "libritts test-clean cross_sentence")
    assert results(None) == Published()
    for name in names:
        assert results(NamedList(name, 5)).rows == () and results(NamedList(name, 5)).why_not == {}


@pytest.mark.parametrize(
    ("found", "changes", "reason"),
    [
        (CHINESE, {"num_texts": 2019}, "has 2020 texts, and this list 2019"),
        (NamedList(CHINESE.name, 20), {}, "has 2020 texts, and this list 20"),
        (CHINESE, {"is_continuation": True}, "is measured without --continual"),
        (NamedList("librispeech test-clean continuation", 9), {}, "is measured with --continual"),
        (CHINESE, {"has_own_voice": True}, "--infer_voice"),
    ],
)
def test_a_part_of_a_list_or_another_way_to_speak_it_has_no_results(found: NamedList, changes, reason: str) -> None:
    shown = results(found, **changes)
    assert shown.rows == () and reason in shown.why_not["published results"]


def test_values_of_another_scale_are_left_out() -> None:
    other = results(CHINESE, speaker_kind="x-vectors")
    assert all(row.values.keys() == {"cer"} for row in other.rows)
    assert "wavlm_large_finetune.pth" in other.why_not["published similarities"]
    normalized = results(CHINESE, normalizer="whisper")
    assert all(row.values.keys() == {"sim_o"} for row in normalized.rows)
    assert "--normalizer seed-tts-eval" in normalized.why_not["published error rates"]
    # icefall's result has an error rate alone.
    assert len(normalized.rows) == len(other.rows) - 1
    assert results(CHINESE, speaker_kind=None).rows == results(CHINESE).rows


def test_the_name_of_a_list_is_in_its_first_line(tmp_path: Path) -> None:
    for first, found in (
        ("# list: seed-tts-eval test_zh, 2020 texts", CHINESE),
        ("# list: seed-tts-eval test_zh", None),
        ("seed-tts-eval test_zh, 2020 texts", None),
    ):
        (tmp_path / "list.txt").write_text(f"{first}\na|b|c\n")
        assert named_list(tmp_path / "list.txt") == found
    assert (CHINESE.normalizer, CHINESE.language) == ("seed-tts-eval", "cmn")
    assert (NamedList("mine", 1).normalizer, NamedList("mine", 1).language) == ("whisper", None)


def test_the_report_shows_published_rows_with_their_models_and_sources(tmp_path: Path, capsys) -> None:
    found = results(CHINESE)
    values = {"cer": Ratio(0.05), "sim_o": Ratio(0.7)}
    mine = System("mine", {}, measured={"a": MeasuredClip(Clip(tmp_path / "a.wav"), values, "")})
    evaluation = Evaluation([], {}, [mine], {}, None, {}, found)
    write_report(tmp_path / "report.html", evaluation, 0)
    page = html.unescape((tmp_path / "report.html").read_text())
    rows = re.findall(r'<tr class="published">(.+?)</tr>', page)
    assert len(rows) == len(found.rows)
    [icefall] = [row for row in rows if "icefall" in row]
    assert ">4.33<small>Paraformer-zh, 8-bit" in icefall and icefall.count("<td>–</td>") == 2
    assert all(row.source in page and row.url.removeprefix("https://") in page for row in found.rows)
    write_metrics(tmp_path / "metrics.json", evaluation)
    published = json.loads((tmp_path / "metrics.json").read_text())["published"]
    assert published["list"] == CHINESE.name and published["looked_up"] == CONTENT["looked_up"]
    [row] = [row for row in published["results"] if "icefall" in row["system"]]
    assert row["metrics"]["cer"]["mean"] == 0.0433 and "icefall" in row["url"]
    set_up_logging()
    log_table(evaluation)
    assert "published: VALL-E of icefall" in capsys.readouterr().err

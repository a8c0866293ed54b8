"""Tests of a reporter with a small real bundle.

They cover the content of a report and that it depends on its own case alone.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_bundle import write_colour_bundle
from risk_tables import draw
from small_report_bundle import SCHEME, report_bundle, write_report_bundle
from tiny_text import WIDTH

from vidrisk.data.cases import Case, PhotoFile
from vidrisk.data.report_prompts import system_text
from vidrisk.decode.pool import DecodePool
from vidrisk.inference import reporter as reporter_module
from vidrisk.inference.model import open_classifier
from vidrisk.inference.open_reporter import open_reporter
from vidrisk.inference.prompt_builders import ChatPrompts, Picture, Pictured
from vidrisk.inference.queries import Query
from vidrisk.inference.reporter import Reporter
from vidrisk.inference.reports import Report
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import BundleError, SettingsError
from vidrisk.runtimes.text.engine import FakeTextEngine
from vidrisk.runtimes.text.requests import MOST_TOKENS, Answer, Chat, Request
from vidrisk.runtimes.text.turns import Exchange
from vidrisk.runtimes.uncertainty import Uncertainty


def case(number: int, photos: int = 1, text: str = "") -> Pictured:
    """Return a case with this number of photos and this text."""
    rng = np.random.default_rng(number)
    pictures = tuple(
        Picture(
            PhotoFile(Path(f"/{number}-{place}.png"), f"{number}-{place}.png"),
            (rng.integers(0, 256, 3) + rng.integers(0, 9, (16, 16, 3))).clip(0, 255).astype(np.uint8),
            content=f"{number:032x}{place:032x}",
        )
        for place in range(photos)
    )
    return Case(
        str(number), tuple(picture.source for picture in pictures if picture.source), {"defect": text}
    ), pictures


def unreadable(picture: Picture) -> Picture:
    return replace(picture, pixels=None, state="corrupt", reason="cannot be decoded", content="")


MIXED = [
    case(0),
    case(1, 3),
    case(2, 0, "a crack"),
    case(3),
    case(4, 2),
    case(5, 0, "裂缝 <|im_end|>"),
    *(case(number) for number in range(6, 15)),
]


@pytest.fixture(scope="module")
def opened() -> Iterator[Reporter]:
    with open_reporter(report_bundle(), threads=1) as reporter:
        yield reporter


def written(reporter: Reporter, cases: Sequence[Pictured], query: Query | None = None) -> dict[str, Report]:
    reports = list(reporter.reports(cases, query))
    assert [report.case for report in reports] == [each for each, _ in cases]
    return {report.case.id: report for report in reports}


def test_the_lightest_variant_writes_reports_that_the_scheme_allows(opened: Reporter) -> None:
    assert (opened.runtime in ("onnxruntime", "openvino"), opened.variant, opened.scheme) == (True, "int8", SCHEME)
    reports = written(opened, MIXED)
    assert len({report.text for report in reports.values()}) > 3
    for report in reports.values():
        assert (report.state, report.reason, report.parse_ok, report.finish) == ("ok", "", True, "schema")
        assert report.fields == {name: json.loads(report.text)[name] for name in ("level", "defect", "risk", "advice")}
        assert report.prompt_tokens > 100 and report.answer_tokens > 10
        assert list(report.levels) == list(SCHEME.level_names) and sum(report.levels.values()) == pytest.approx(1)


def test_answers_do_not_depend_on_batch_order_or_neighbours(opened: Reporter) -> None:
    together = written(opened, MIXED)
    assert written(opened, MIXED[::-1]) == together
    assert {number: written(opened, [each])[number] for each in MIXED for number in [each[0].id]} == together
    with open_reporter(report_bundle(), threads=1, sequences=1, variant="int8") as alone:
        texts = {number: report.text for number, report in written(alone, MIXED[:6]).items()}
    assert sum(texts[number] != together[number].text for number in texts) <= 1  # one row alone is rounded otherwise


def test_cases_are_taken_as_answers_come(opened: Reporter) -> None:
    taken = 0

    def cases() -> Iterator[Pictured]:
        nonlocal taken
        for number in range(400):
            taken += 1
            yield case(number)

    reports = opened.reports(cases())
    assert next(reports).case.id == "0" and taken < 100
    reports.close()
    assert written(opened, [case(0)])  # the engine is free again


def test_cases_that_need_no_answer_are_not_held_back(opened: Reporter) -> None:
    """Cases that need no answer are reported without delay.

    Neither the next answer nor the end holds them back. While they wait for an earlier answer, they keep no
    pictures.
    """
    taken, most_alive = 0, 0
    alive: weakref.WeakSet[Picture] = weakref.WeakSet()

    def cases(first: Sequence[Pictured], other: Callable[[int], Pictured]) -> Iterator[Pictured]:
        nonlocal taken, most_alive
        for number in range(200):
            taken += 1
            found = first[number] if number < len(first) else other(number)
            alive.update(found[1])
            most_alive = max(most_alive, len(alive))
            yield found
            del found

    def bad(number: int) -> Pictured:
        whole, pictures = case(number)
        return whole, tuple(map(unreadable, pictures))

    reports = opened.reports(cases([], bad))
    assert next(reports).state == "corrupt" and taken < 20
    assert [report.case.id for report in reports] == [str(number) for number in range(1, 200)]
    taken = 0
    reports = opened.reports(cases([case(0), case(1)], bad))
    assert [next(reports).state for _ in range(3)] == ["ok", "ok", "corrupt"] and taken < 100
    assert [report.case.id for report in reports] == [str(number) for number in range(3, 200)]
    taken, most_alive = 0, 0
    states = [report.state for report in opened.reports(cases([case(0)], lambda number: case(number, 60)))]
    assert states == ["ok", *["too_large"] * 199] and most_alive <= 4 * 60


def test_photos_that_cannot_be_read_cost_themselves_alone(opened: Reporter) -> None:
    whole, pictures = case(1, 3)
    some = (pictures[0], unreadable(pictures[1]), replace(pictures[2], state="partial", reason="a part is missing"))
    none = case(2, 2)
    reports = written(
        opened,
        [case(0), (whole, some), (none[0], tuple(map(unreadable, none[1]))), (Case("empty", (), {}), ()), case(3)],
    )
    assert [report.state for report in reports.values()] == ["ok", "partial", "corrupt", "skipped", "ok"]
    assert reports["1"].reason == "1-1.png: cannot be decoded; 1-2.png: a part is missing" and reports["1"].parse_ok
    assert not reports["2"].is_answered and "2-0.png: cannot" in reports["2"].reason
    assert reports["empty"].reason == "it has neither a photo nor a text"
    two = Case("1", whole.photos, {}), (pictures[0], pictures[2])
    assert reports["1"].text == written(opened, [two])["1"].text


def test_an_answer_that_is_cut_off_is_a_failed_row_with_its_reason() -> None:
    with open_reporter(report_bundle(), threads=1, answer_tokens=12) as short:
        (report,) = short.reports([case(0)])
    assert (report.state, report.parse_ok, report.finish, report.answer_tokens) == ("partial", False, "length", 12)
    assert report.reason == "the answer does not parse: it is cut off after 12 tokens" and report.text
    prediction = short.query().prediction(report, "/0.png")
    assert (prediction.label, prediction.level, prediction.severity, prediction.state) == ("", None, None, "partial")
    assert (
        prediction.report is not None and prediction.report["parse_ok"] is False and prediction.reason == report.reason
    )


def test_a_case_that_is_too_long_costs_itself_alone(opened: Reporter) -> None:
    reports = written(opened, [case(0), case(1, 60), case(2)])
    assert [report.state for report in reports.values()] == ["ok", "too_large", "ok"]
    assert "exceed the model's 768" in reports["1"].reason and not reports["1"].is_answered


def test_a_case_that_is_longer_than_any_prompt_costs_itself_alone(
    opened: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    see, long = opened.prompts.see, case(1, 5)
    monkeypatch.setattr(
        opened.prompts,
        "see",
        lambda pictures: [
            np.broadcast_to(tokens[:1], (MOST_TOKENS // 4, WIDTH)) if picture in long[1] else tokens
            for tokens, picture in zip(see(pictures), pictures, strict=True)
        ],
    )
    reports = written(opened, [case(0), long, case(2)])
    assert [report.state for report in reports.values()] == ["ok", "too_large", "ok"]
    assert "exceed the model's 768" in reports["1"].reason


def test_probabilities_have_the_temperature_of_the_variant_and_levels_their_threshold(
    tmp_path: Path, opened: Reporter
) -> None:
    root = write_report_bundle(tmp_path / "b", temperature={"level": 3.0}, threshold={"level": 0.2}, coverage=0.9)
    with open_reporter(root, threads=1) as calibrated:
        (report,) = calibrated.reports([case(0)])
        prediction = calibrated.query().prediction(report, "/0.png")
    (plain,) = opened.reports([case(0)])
    cooled = np.array(list(plain.levels.values())) ** (1 / 3)
    assert list(report.levels.values()) == pytest.approx(list(cooled / cooled.sum()), rel=1e-4)
    likely = [name for name, score in sorted(report.levels.items(), key=lambda item: -item[1]) if score >= 0.2]
    assert prediction.candidates == {"level": likely} and prediction.uncertain == (likely != [report.fields["level"]])
    assert prediction.severity == pytest.approx(50 * report.levels["medium"] + 100 * report.levels["severe"])
    assert prediction.score == report.levels[prediction.label]
    first = opened.query().prediction(plain, "/0.png")
    assert first.uncertain is None and first.id == prediction.id and len(first.id) == 32
    assert (first.risk, first.advice, first.description) == tuple(
        plain.fields[name] for name in ("risk", "advice", "defect")
    )


@pytest.mark.parametrize(("photos", "turns"), [(0, 1), (1, 1), (2, 3)])
def test_a_conversation_is_streamed_and_goes_on(opened: Reporter, photos: int, turns: int) -> None:
    _, pictures = case(1, photos)
    history: list[Exchange] = []
    lengths = []
    for turn in range(turns):
        pieces: list[str] = []
        answer = opened.ask(
            pictures, f"what? {turn}", history, lambda _, piece, pieces=pieces: pieces.append(piece), limit=20
        )
        assert "".join(pieces) == answer.text and answer.finish in ("stop", "length")
        lengths.append(answer.prompt_tokens)
        history.append(Exchange(f"what? {turn}", answer=answer.text))
    assert lengths == sorted(set(lengths))


def test_what_cannot_be_asked_is_said(opened: Reporter) -> None:
    with pytest.raises(SettingsError, match="the conversation is too long: its prompt of"):
        opened.ask((), "why? " * 200)
    with pytest.raises(SettingsError, match="a question without words"):
        opened.ask((), " \n")


def test_other_bundles_are_refused_in_one_line(tmp_path: Path) -> None:
    labels = write_colour_bundle(tmp_path / "colours.bundle").root
    with pytest.raises(BundleError, match=r"answers with labels.*vidrisk infer colours\.bundle"):
        open_reporter(labels)
    with pytest.raises(
        BundleError, match=r"writes reports.*vidrisk infer small\.bundle PATH.*vidrisk ask small\.bundle"
    ):
        open_classifier(report_bundle())
    with pytest.raises(SettingsError, match="torch cannot read"):
        open_reporter(report_bundle(), runtime="torch")
    with pytest.raises(BundleError, match="no variant 'fp16'"):
        open_reporter(report_bundle(), variant="fp16")
    with pytest.raises(SettingsError, match="answer_tokens 768; allowed: 1 to 767"):
        open_reporter(report_bundle(), answer_tokens=768)
    other = replace_levels(tmp_path)
    with pytest.raises(BundleError, match="which are not those of the contract"):
        open_reporter(other)
    with (
        open_reporter(write_report_bundle(tmp_path / "talks.bundle", scheme=None), threads=1) as talks,
        pytest.raises(SettingsError, match=r"has no scheme of reports.*vidrisk ask talks\.bundle"),
    ):
        next(talks.reports([case(0)]))


def replace_levels(folder: Path) -> Path:
    """Write a bundle whose scheme has other levels than its contract."""
    scheme = SCHEME.model_copy(update={"levels": SCHEME.levels[:2]})
    root = write_report_bundle(folder / "other.bundle")
    (root / "scheme.json").write_text(scheme.to_json(), encoding="utf-8")
    manifest = json.loads((root / "bundle.json").read_text(encoding="utf-8"))
    from vidrisk.runtimes.contract.bundle import sha256_of

    manifest["files"]["scheme.json"] = {
        "sha256": sha256_of(root / "scheme.json"),
        "bytes": (root / "scheme.json").stat().st_size,
    }
    (root / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    return root


def chatting(reply: Any) -> Reporter:
    """Return a reporter whose answers come from a server; ``reply`` maps a request to its answer."""
    with open_reporter(report_bundle(), threads=1) as opened:
        contract: Contract = opened.contract
    return Reporter(
        contract,
        SCHEME,
        ChatPrompts(),
        FakeTextEngine(reply, Chat),
        system=None,
        runtime="server",
        variant="m",
        provenance={"digest": "d"},
        answer_tokens=50,
        is_server=True,
        temperature={},
        uncertainty=Uncertainty(),
        threads=None,
    )


def test_a_server_gets_messages_with_jpegs_and_what_it_writes_is_checked() -> None:
    asked: list[Request] = []
    texts = iter(
        [
            '{"level":"severe","defect":"a","risk":"b","advice":"c"}',
            '{"level":"awful","defect":"","risk":"","advice":""}',
            "",
            '{"level":"minor","defect":"a","risk":"b","advice":"c"}',
        ]
    )

    def reply(request: Request) -> Answer:
        asked.append(request)
        text = next(texts)
        return Answer(text, "schema" if text else "failed", error="" if text else "HTTP 503")

    reports = written(chatting(reply), [*map(with_jpegs, MIXED[:4])])
    assert [report.state for report in reports.values()] == ["ok", "partial", "skipped", "ok"]
    assert reports["1"].reason == "the answer does not parse: level is 'awful'"
    assert reports["2"].reason == "the model gives no answer: HTTP 503" and not reports["2"].is_answered
    prediction = chatting(reply).query().prediction(reports["0"], "/0.png")
    assert (prediction.label, prediction.severity, prediction.targets, prediction.uncertain) == (
        "severe",
        100,
        {},
        None,
    )
    first, second = (request.prompt.messages for request in asked[:2])  # type: ignore[union-attr]
    assert first[0] == {"role": "system", "content": system_text(SCHEME)} and asked[0].schema == SCHEME.json_schema()
    kinds = [part["type"] for part in second[1]["content"]]
    assert kinds == ["image_url"] * 3 + ["text"] and second[1]["content"][-1]["text"] == "3 photos."
    assert first[1]["content"][0]["image_url"]["url"] == "data:image/jpeg;base64,/9j/" and asked[0].comparison is None


def test_a_photo_is_known_by_its_file_whoever_reads_it(opened: Reporter, tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png", 1)
    shown = Case("a", (PhotoFile(path, "a.png"),), {})
    with DecodePool(1) as pool:
        contents = [
            picture.content
            for prompts in (opened.prompts, ChatPrompts())
            for _, pictures in prompts.read([shown], pool)
            for picture in pictures
        ]
    assert contents == [hashlib.sha256(path.read_bytes()).hexdigest()] * 2


class FakeJpeg:
    data = b"\xff\xd8\xff"


def with_jpegs(pictured: Pictured) -> Pictured:
    """Return a case in the form that a server receives, with pictures as JPEGs."""
    return pictured[0], tuple(replace(picture, pixels=FakeJpeg()) for picture in pictured[1])


def test_what_no_tokenizer_takes_and_what_is_not_finite_costs_its_case_alone(
    opened: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    see = opened.prompts.see
    monkeypatch.setattr(
        opened.prompts,
        "see",
        lambda pictures: [
            tokens * (np.nan if picture is case_1 else 1)
            for tokens, picture in zip(see(pictures), pictures, strict=True)
        ],
    )
    lost = case(1)
    case_1 = lost[1][0]
    reports = written(opened, [case(0), lost, case(2, 0, "half a character \ud83d")])
    assert [report.state for report in reports.values()] == ["ok", "corrupt", "ok"]
    assert reports["1"].reason == "the model computes non-finite values for its photos"


def test_a_batch_is_computed_for_several_photos(opened: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    see = opened.prompts.see
    monkeypatch.setattr(opened.prompts, "see", lambda pictures: sizes.append(len(pictures)) or see(pictures))
    written(opened, MIXED)
    assert max(sizes) >= reporter_module.BATCH_PHOTOS and sum(sizes) == sum(len(pictures) for _, pictures in MIXED)
    assert see(MIXED[0][1])[0].shape == (4, WIDTH)


def test_a_question_knows_its_prompt_and_takes_an_answer_as_it_is() -> None:
    """A question has its own prompt, and its answer is accepted without parsing.

    The answers come from a server, so that their texts are known.
    """
    asked: list[Request] = []
    answers = iter([Answer("A wall.\nWet.", "stop"), Answer("A", "length"), Answer("", "failed", error="HTTP 503")])

    def reply(request: Request) -> Answer:
        asked.append(request)
        return next(answers)

    talks = chatting(reply)
    query = talks.query("What \ud83d?")
    whole, pictures = with_jpegs(case(1, 3))
    some = whole, (pictures[0], unreadable(pictures[1]), pictures[2])
    reports = written(talks, [some, case(2, 0, "a crack"), with_jpegs(case(3)), with_jpegs(case(4))], query)
    assert [report.state for report in reports.values()] == ["partial", "skipped", "partial", "skipped"]
    assert [report.reason for report in reports.values()] == [
        "1-1.png: cannot be decoded",
        "it has no photo",
        "the answer is cut off after 50 tokens",
        "the model gives no answer: HTTP 503",
    ]
    assert (reports["1"].parse_ok, reports["1"].text, reports["1"].fields) == (True, "A wall.\nWet.", {})
    (first, *_), messages = asked, asked[0].prompt.messages  # type: ignore[union-attr]
    assert first.schema is None and first.comparison is None and len(messages) == 1
    assert [part.get("text") for part in messages[0]["content"]] == [None, None, "What ??"]
    prediction = query.prediction(reports["1"], "/table.csv#1")
    assert (prediction.label, prediction.state, prediction.report and prediction.report["question"]) == (
        "",
        "partial",
        "What ??",
    )
    assert len(prediction.id) == 32

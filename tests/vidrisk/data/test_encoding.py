"""Tests of words from tables of many countries, in the code pages in which spreadsheets save them.

The words are read correctly, or the file is refused.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.data import load_table
from vidrisk.data.chinese import COMMON, ENOUGH_BITS, WORDS, chinese_bits
from vidrisk.data.encoding import text_from_bytes
from vidrisk.runtimes.contract.errors import DataError, SettingsError

KOREAN = [
    "정상",
    "균열",
    "긁힘",
    "오염",
    "부식",
    "파손",
    "누수",
    "결함",
    "양호",
    "심각",
    "경미",
    "위험",
    "낮음",
    "높음",
    "보통",
    "넘어짐",
    "걷기",
    "달리기",
    "싸움",
    "흡연",
    "불량",
    "합격",
    "불합격",
    "찌그러짐",
]
RUSSIAN = [
    "норма",
    "трещина",
    "скол",
    "дефект",
    "коррозия",
    "вмятина",
    "царапина",
    "грязь",
    "хорошо",
    "плохо",
    "высокий",
    "низкий",
    "риск",
    "драка",
    "бег",
    "падение",
    "пожар",
    "стена",
]
GREEK = ["κανονικό", "ρωγμή", "φθορά", "διάβρωση", "ζημιά", "σκουριά"]
HEBREW = ["תקין", "סדק", "שריטה", "חלודה", "נזק"]
ARABIC = ["طبيعي", "شق", "خدش", "صدأ", "تلف"]
THAI = ["ปกติ", "รอยแตก", "รอยขีดข่วน", "สนิม"]
TURKISH = ["çatlak", "çizik", "paslı", "kırık", "iyi", "kötü", "yüksek", "düşük"]
WESTERN = [
    "größe",
    "Öl",
    "Riß",
    "fissuré",
    "défaut",
    "cassé",
    "schön",
    "Übel",
    "weiß",
    "año",
    "daño",
    "niño",
    "corrosión",
    "ação",
    "avaria",
    "møbel",
    "ærlig",
    "åben",
]
CENTRAL = [
    "škrábanec",
    "dobrý",
    "zlý",
    "poškození",
    "řez",
    "žádná",
    "čistý",
    "pęknięcie",
    "błąd",
    "średni",
    "łuszczenie",
    "żółty",
]
JAPANESE = [
    "正常",
    "ひび割れ",
    "傷",
    "キズ",
    "汚れ",
    "変形",
    "錆",
    "漏水",
    "剥離",
    "重度",
    "軽度",
    "安全",
    "危険",
    "歩く",
    "走る",
    "転倒",
    "喫煙",
]
TRADITIONAL = [
    "正常",
    "裂縫",
    "裂紋",
    "刮傷",
    "髒污",
    "破損",
    "變形",
    "嚴重",
    "輕微",
    "中等",
    "生鏽",
    "腐蝕",
    "漏水",
    "剝落",
    "安全",
    "危險",
    "走路",
    "跑步",
    "跌倒",
    "吸菸",
]
CODE_PAGES = {
    "euc_kr": KOREAN,
    "cp949": KOREAN,
    "johab": KOREAN,
    "koi8_r": RUSSIAN,
    "koi8_u": RUSSIAN,
    "cp1251": RUSSIAN,
    "cp866": RUSSIAN,
    "iso8859_5": RUSSIAN,
    "mac_cyrillic": RUSSIAN,
    "cp1253": GREEK,
    "cp1255": HEBREW,
    "cp1256": ARABIC,
    "cp874": THAI,
    "cp1254": TURKISH,
    "cp1252": WESTERN,
    "latin_1": WESTERN,
    "mac_roman": WESTERN,
    "cp1250": CENTRAL,
    "iso8859_2": CENTRAL,
    "cp852": CENTRAL,
    "shift_jis": JAPANESE,
    "cp932": JAPANESE,
    "euc_jp": JAPANESE,
    "iso2022_jp": JAPANESE,
    "big5": TRADITIONAL,
    "cp950": TRADITIONAL,
    "big5hkscs": TRADITIONAL,
    "iso2022_kr": KOREAN,
    "hz": ["正常", "裂纹"],
    "utf_16_le": KOREAN,
    "utf_16_be": WESTERN,
}


def csv_of(labels: list[str], encoding: str, header: str = "path,label") -> bytes:
    return (f"{header}\r\n" + "".join(f"p{i}.jpg,{label}\r\n" for i, label in enumerate(labels))).encode(encoding)


@pytest.mark.parametrize("encoding", CODE_PAGES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_words_in_a_legacy_code_page_are_read_right_or_refused(encoding: str, data: st.DataObject) -> None:
    case = data.draw(st.sampled_from([str, str.upper, str.capitalize]))
    labels = data.draw(st.lists(st.sampled_from(CODE_PAGES[encoding]).map(case), min_size=2, max_size=12, unique=True))
    try:
        raw = csv_of(labels, encoding)
    except UnicodeEncodeError:  # capitals that the code page lacks
        return
    try:
        text = text_from_bytes(raw, "m.csv").text
    except DataError as error:
        assert "\n" not in str(error) and "encoding" in str(error)
    else:
        assert text == raw.decode(encoding)
    assert text_from_bytes(raw, "m.csv", encoding).text == raw.decode(encoding)


@pytest.mark.parametrize(
    ("encoding", "alphabet"),
    [
        ("euc_kr", [chr(code) for code in range(0xAC00, 0xD7A4)]),
        ("euc_jp", [chr(code) for code in range(0x4E00, 0x9FA0)]),
        ("big5", [chr(code) for code in range(0x4E00, 0x9FA0)]),
        ("shift_jis", [chr(code) for code in range(0x4E00, 0x9FA0)]),
        ("koi8_r", [chr(code) for code in range(0x410, 0x450)]),
        ("cp1251", [chr(code) for code in range(0x410, 0x450)]),
        ("iso8859_7", [chr(code) for code in range(0x391, 0x3CA) if code != 0x3A2]),
        ("cp1252", [chr(code) for code in range(0xC0, 0x100)]),
    ],
)
def test_characters_drawn_by_lot_are_never_chinese(encoding: str, alphabet: list[str]) -> None:
    rng = random.Random(encoding)
    letters = [letter for letter in alphabet if len(letter.encode(encoding, "ignore"))]
    for _ in range(1500):
        labels = ["".join(rng.choices(letters, k=rng.randint(2, 6))) for _ in range(rng.randint(1, 8))]
        try:
            as_gb = csv_of(labels, encoding).decode("gb18030")
        except UnicodeDecodeError:
            continue
        assert chinese_bits(as_gb) < ENOUGH_BITS, (labels, as_gb)


@pytest.mark.parametrize(
    "labels",
    [
        ["裂缝", "正常"],
        ["ok", "破损"],
        ["严重", "轻微"],
        ["高", "中", "低"],
        ["护栏缺失且无警示", "墙体开裂"],
        ["打架", "走路"],
        ["红色", "蓝色"],
        ["绝缘子自爆", "鸟巢"],
        ["篮球", "足球", "羽毛球"],
        ["结构胶开裂", "铝扣板"],
        ["鼠标", "键盘"],
        ["盗窃", "抢劫"],
        ["节疤", "虫眼"],
        ["抛物", "坠物"],
        ["崩边", "缺角", "ok"],
    ],
)
def test_chinese_words_are_recognised_and_said(labels: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="vidrisk"):
        decoded = text_from_bytes(csv_of(labels, "gbk"), "m.csv")
    assert decoded.text == csv_of(labels, "gbk").decode("gbk")
    assert "m.csv is read as GB 18030, by its" in decoded.note and decoded.note in caplog.text


def test_a_chinese_header_is_evidence() -> None:
    raw = csv_of(["铲斗", "塔罗牌"], "gb18030", "图片路径,类别")
    assert "by its words 图片, 路径, 类别" in text_from_bytes(raw, "m.csv").note
    with pytest.raises(DataError, match=r"line 2 reads in gb18030: 'p0\.jpg,铲斗'"):
        text_from_bytes(csv_of(["铲斗", "塔罗牌"], "gb18030"), "m.csv")  # two rare words alone are none


def test_the_refusal_names_the_line_its_readings_and_the_way_out() -> None:
    with pytest.raises(DataError) as caught:
        text_from_bytes(csv_of(["ok", "größe", "Öl"], "cp1252"), "m.csv")
    assert "m.csv is not UTF-8, and its encoding cannot be detected; line 3 reads in" in str(caught.value)
    assert "cp1252: 'p1.jpg,größe'" in str(caught.value) and "--encoding" in str(caught.value)


@pytest.mark.parametrize("other", [b"\xc1\xd1\xb7\xec", "größe".encode("cp1252"), "裂縫".encode("big5")])
@pytest.mark.parametrize("utf8", ["裂缝", "café", "Öl", "трещина", "naïve, dünn"])
def test_a_file_of_two_encodings_is_refused_with_both_lines(other: bytes, utf8: str) -> None:
    raw = b"path,label\np0.jpg," + other + b"\np1.jpg,ok\np2.jpg," + utf8.encode() + b"\n"
    with pytest.raises(DataError, match=r"line 4 reads as UTF-8 \('.*'\), line 2 does not"):
        text_from_bytes(raw, "m.csv")


@pytest.mark.parametrize("other", ["Öl".encode("cp1252"), "größe".encode("cp1252"), "ひび".encode("shift_jis")])
def test_a_line_of_another_code_page_among_chinese_ones(other: bytes) -> None:
    raw = csv_of(["正常", "裂纹", "划痕"], "gbk") + b"p9.jpg," + other + b"\r\n"
    with pytest.raises(DataError, match=r"m\.csv is GB 18030 except for line 5, which would read"):
        text_from_bytes(raw, "m.csv")


def test_a_hanzi_with_the_bytes_of_a_latin_letter_is_no_second_encoding() -> None:
    raw = csv_of(["正常", "裂纹", "么"], "gbk")  # 么 is C3 B4, as ô is in UTF-8
    assert text_from_bytes(raw, "m.csv").text == raw.decode("gbk")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_needs_no_evidence(encoding: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="vidrisk"):
        decoded = text_from_bytes(csv_of(["größe", "裂缝"], encoding), "m.csv")
    assert decoded.text == csv_of(["größe", "裂缝"], "utf-8").decode() and not decoded.note and not caplog.text


@pytest.mark.parametrize(
    ("raw", "encoding", "message"),
    [
        (b"path,label\na,\xff\n", "utf-8", "m.csv, line 2 is not utf-8-sig text"),
        (b"path\nok\na,\x81\xff\n", "euc-kr", "m.csv, line 3 is not euc-kr text"),
        (b"\xff\xfea", None, "is not utf-16 text"),
        (
            "path,label".encode("utf-16-le"),
            None,
            "contains zero bytes, like UTF-16 without a byte order mark; fix: .* such as utf-16-le",
        ),
        (b"path,label\na,\x1b$B@5>o\x1b(B\n", None, "line 2 has the escape sequences of ISO-2022 or HZ"),
    ],
)
def test_what_is_not_what_it_is_said_to_be(raw: bytes, encoding: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        text_from_bytes(raw, "m.csv", encoding)


@pytest.mark.parametrize("encoding", ["rot13", "base64", "klingon", "", "utf 99"])
def test_what_is_no_encoding(encoding: str) -> None:
    with pytest.raises(SettingsError, match="allowed: utf-8, utf-16, gb18030"):
        text_from_bytes(b"x", "m.csv", encoding)


def test_a_named_encoding_reads_the_table(tmp_path: Path, photo: Callable[..., Path]) -> None:
    for i in range(2):
        photo(tmp_path / f"p{i}.jpg")
    (tmp_path / "m.csv").write_bytes(csv_of(["裂縫", "正常"], "big5"))
    table = load_table(tmp_path / "m.csv", "risk", encoding="big5")
    assert table.label_counts("defect") == {"正常": 1, "裂縫": 1} and table.notes == ()
    (tmp_path / "m.csv").write_bytes(csv_of(["裂缝", "正常"], "gbk"))
    assert "GB 18030" in load_table(tmp_path / "m.csv", "risk").notes[0]
    for source, allowed in ((tmp_path, "only for a manifest"), (tmp_path / "p.parquet", "only for .csv")):
        source.touch()
        with pytest.raises(SettingsError, match=allowed):
            load_table(source, "risk", encoding="big5")


def test_the_vocabulary_is_of_gb2312() -> None:
    assert {len(word) for word in WORDS} == {2} and all(len(character) == 1 for character in COMMON)
    "".join([*WORDS, *COMMON]).encode("gb2312")

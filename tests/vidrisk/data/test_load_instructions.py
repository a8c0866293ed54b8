"""Tests of instruction data of every format: all turns, all questions on an image, unique ids, named faults."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from risk_tables import draw, write_jsonl, write_seed

from vidrisk.data import load_cases
from vidrisk.data.cases import PhotoFile
from vidrisk.data.instruction_formats import FORMATS, First
from vidrisk.data.instructions import Instruction, Turn, instruction_from_case
from vidrisk.data.load_instructions import load_instructions
from vidrisk.data.report_prompts import PHOTO, prompt_from_case
from vidrisk.runtimes.contract.errors import DataError, SettingsError, VidriskError


def asked(*turns: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(turns)]


LLAVA = [
    {"id": "1", "image": "a.jpg", "conversations": asked("<image>\nWhat?", "A wall.", "Colour?", "Grey.")},
    {"id": "1", "image": "a.jpg", "conversations": asked("Cracks?\n<image>", "Two.")},
    {"id": "2", "image": "b.jpg", "conversations": asked("<image>\nWhat?", "A beam.")},
    {"id": 3, "conversations": asked("Hello", "Hi.")},
]
SHAREGPT = [
    {"conversations": asked("<image>one<image>two", "Yes."), "images": ["a.jpg", "b.jpg"], "system": "Be brief."}
]
SWIFT: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "What?"},
            {"role": "assistant", "content": "x"},
        ],
        "images": ["a.jpg"],
    },
    {
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "b.jpg"}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "y"}]},
        ]
    },
]
CHALLENGER = [
    {"url": "u", "image_id": "a.jpg", "caption": ["一面墙", "灰色的墙"]},
    {"image_id": "b.jpg", "caption": ["梁"]},
]
COCO = {
    "info": {"year": 2017},
    "images": [{"id": 9, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
    "licenses": [],
    "annotations": [
        {"id": 5, "image_id": 9, "caption": "A wall.\n"},
        {"id": 6, "image_id": 9, "caption": "Grey."},
        {"id": 7, "image_id": 8, "caption": "A beam."},
    ],
}
EXAMPLES: dict[str, tuple[str, Any]] = {
    "llava": ("llava.json", LLAVA),
    "sharegpt": ("sharegpt.json", SHAREGPT),
    "ms-swift": ("swift.jsonl", SWIFT),
    "ai-challenger": ("caption_train_annotations.json", CHALLENGER),
    "coco-captions": ("captions_val2017.json", COCO),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "ab":
        draw(tmp_path / f"{name}.jpg")
    return tmp_path


def write(root: Path, name: str, data: Any) -> Path:
    if name.endswith(".jsonl"):
        return write_jsonl(root / name, data)
    (root / name).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return root / name


def images(item: Instruction) -> list[str]:
    return [image.name for image in item.images]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_recognised_by_itself_alone(root: Path, name: str) -> None:
    path = write(root, *EXAMPLES[name])
    found = load_instructions(path)
    assert found == load_instructions(path, name=name) and not found.missing and not found.left_out
    record = EXAMPLES[name][1]["annotations"][0] if name == "coco-captions" else EXAMPLES[name][1][0]
    layout = "object" if name == "coco-captions" else "lines" if name == "ms-swift" else "list"
    assert [known.name for known in FORMATS.values() if known.owns(First(layout, record))] == [name]  # type: ignore[arg-type]


def test_llava_keeps_all_turns_and_all_questions_about_an_image(root: Path) -> None:
    items = load_instructions(write(root, *EXAMPLES["llava"])).items
    assert [(item.id, images(item), item.group) for item in items] == [
        ("1", ["a.jpg"], "a.jpg"),
        ("1#2", ["a.jpg"], "a.jpg"),
        ("2", ["b.jpg"], "b.jpg"),
        ("3", [], None),
    ]
    assert items[0].turns == (
        Turn("user", "<image>\nWhat?"),
        Turn("assistant", "A wall."),
        Turn("user", "Colour?"),
        Turn("assistant", "Grey."),
    )
    assert items[1].turns[0].text == "Cracks?\n<image>"


def test_sharegpt_has_several_images_and_a_system_text(root: Path) -> None:
    (item,) = load_instructions(write(root, *EXAMPLES["sharegpt"])).items
    assert images(item) == ["a.jpg", "b.jpg"] and item.turns[0] == Turn("system", "Be brief.")


def test_names_of_dataset_info_are_used(root: Path) -> None:
    record = [{"chat": [{"who": "me", "says": "What?"}, {"who": "it", "says": "A wall."}], "pictures": ["a.jpg"]}]
    info = {
        "mine": {
            "file_name": "x.json",
            "formatting": "sharegpt",
            "columns": {"messages": "chat", "images": "pictures"},
            "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "it"},
        }
    }
    write(root, "dataset_info.json", info)
    (item,) = load_instructions(write(root, "x.json", record), name="sharegpt").items
    assert item.turns == (Turn("user", f"{PHOTO}\nWhat?"), Turn("assistant", "A wall."))


def test_ms_swift_marks_images_that_have_no_marker(root: Path) -> None:
    one, two = load_instructions(write(root, *EXAMPLES["ms-swift"])).items
    assert one.turns[1] == Turn("user", f"{PHOTO}\nWhat?") and two.turns[0] == Turn("user", f"{PHOTO}\nWhat?")
    assert images(two) == ["b.jpg"] and (one.id, two.id) == ("1", "2")


@pytest.mark.parametrize(
    ("name", "captions", "split"),
    [
        ("ai-challenger", ["一面墙", "灰色的墙", "梁"], "train"),
        ("coco-captions", ["A wall.", "Grey.", "A beam."], "val"),
    ],
)
def test_every_caption_is_a_conversation(root: Path, name: str, captions: list[str], split: str) -> None:
    path = write(root, *EXAMPLES[name])
    items = load_instructions(path).items
    assert [item.turns[1].text for item in items] == captions and {item.split for item in items} == {split}
    assert len({item.id for item in items}) == 3 and items[0].group == items[1].group == "a.jpg"
    assert all(item.turns[0].text.count(PHOTO) == 1 for item in items) and load_instructions(path).items == items


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([], "no turn of a user"),
        ([{"from": "gpt", "value": "x"}], "turn 1 is of the assistant"),
        ([{"from": "human", "value": "a"}, {"from": "human", "value": "b"}], "turn 2 is of the user"),
        (
            [{"from": "human", "value": "<image><image>"}, {"from": "gpt", "value": "x"}],
            "2 markers <image> for 1 images",
        ),
        ([{"from": "human", "value": "a"}, {"from": "gpt", "value": " "}], "with nothing in it"),
        ([{"from": "human", "value": "a"}, {"from": "gpt", "value": "<image>"}], "with an image in it"),
        ([{"from": "human", "value": None}], "a turn without a text"),
        ([{"from": "tool", "value": "a"}], "a turn of 'tool'"),
    ],
)
def test_a_conversation_that_cannot_be_used_is_left_out_and_named(root: Path, turns: list[Any], said: str) -> None:
    path = write(root, "x.json", [*LLAVA, {"id": "4", "image": "a.jpg", "conversations": turns}])
    found = load_instructions(path)
    assert len(found) == 4 and len(found.left_out) == 1
    assert found.left_out[0].startswith("x.json, record 5: ") and said in found.left_out[0]
    with pytest.raises(DataError, match="records that cannot be used: 1"):
        load_instructions(path, strict=True)


def test_images_that_are_missing_are_counted(root: Path) -> None:
    (root / "b.jpg").unlink()
    path = write(root, *EXAMPLES["llava"])
    found = load_instructions(path)
    assert [item.id for item in found.items] == ["1", "1#2", "3"] and found.missing == ("b.jpg (llava.json, record 3)",)
    with pytest.raises(DataError, match=r"missing images: 1 \(b\.jpg"):
        load_instructions(path, strict=True)


def test_videos_and_paths_that_leave_the_folder(root: Path) -> None:
    found = load_instructions(write(root, "x.jsonl", [*SWIFT, SWIFT[0] | {"images": [], "videos": ["a.mp4"]}]))
    assert found.left_out == ("x.jsonl, line 3: it is about a video",)
    with pytest.raises(DataError, match=r"record 1: the path '\.\./a\.jpg' leaves the folder"):
        load_instructions(write(root, "y.json", [LLAVA[0] | {"image": "../a.jpg"}]))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.json", "", r"x\.json is empty \(0 bytes\)"),
        ("x.json", "[", "x.json"),
        ("x.json", "[1]", "not a JSON object"),
        ("x.json", "{}", "no known format"),
        ("x.json", "[{}]", "no known format"),
        ("x.json", '{"annotations": [1]}', "not a JSON object"),
        ("x.txt", "a", "no known format"),
        ("x.json", '{"annotations": [{"image_id": 1, "caption": "a"}]}', "is not listed"),
        (
            "x.json",
            '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "a"}]}',
            "no id or no file_name",
        ),
        ("x.json", '{"annotations": [{"image_id": 1, "caption": "a"}', "cut off"),
        ("x.json", '[{"image_id": "a.jpg", "caption": 3}]', "no caption"),
        ("x.jsonl", "{}", "no known format"),
        ("x.json", '[{"conversations": 3}]', "no list of messages"),
        ("x.jsonl", '{"messages": [1]}', "no list of messages"),
        ("x.jsonl", '{"messages": []}\nnull', "line 2"),
        ("x.jsonl", '{"messages": []}', "no record that can be used"),
        ("x.json", '[{"image_id": "a.jpg", "caption": [""]}]', "no record that can be used"),
    ],
)
def test_a_file_that_is_damaged_is_refused_in_one_line(root: Path, name: str, text: str, said: str) -> None:
    (root / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said) as refused:
        load_instructions(root / name)
    assert "\n" not in str(refused.value)


def test_wrong_settings(root: Path) -> None:
    path = write(root, *EXAMPLES["llava"])
    with pytest.raises(
        SettingsError, match="format 'x'; allowed: ai-challenger, coco-captions, llava, ms-swift, sharegpt"
    ):
        load_instructions(path, name="x")
    with pytest.raises(SettingsError, match="images in"):
        load_instructions(path, images=root / "none")
    with pytest.raises(DataError, match="does not exist"):
        load_instructions(root / "none.json")


def test_cases_become_instructions_through_the_prompt_builder(tmp_path: Path) -> None:
    cases = load_cases(write_seed(tmp_path, 3))
    for case in cases.cases:
        item = instruction_from_case(cases.scheme, case)
        prompt = prompt_from_case(cases.scheme, case)
        assert [turn.role for turn in item.turns] == ["system", "user", "assistant"] and item.images == case.photos
        assert (item.turns[0].text, item.turns[1].text) == (prompt.system, prompt.user)
        assert instruction_from_case(cases.scheme, case, with_answer=False).turns == item.turns[:2]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["a.jpg", "gone.jpg", "human", "gpt", "user", "assistant", "<image>"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["from", "value", "role", "content", "type", "image", "text"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
records = st.dictionaries(
    st.sampled_from(
        ["id", "image", "images", "conversations", "messages", "caption", "image_id", "file_name", "system", "video"]
    ),
    values,
    max_size=5,
)


@given(st.sampled_from(list(FORMATS)), st.lists(records, min_size=1, max_size=4))
@settings(max_examples=100)
def test_any_record_is_read_left_out_or_refused_in_one_line(name: str, found: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "a.jpg")
        data: Any = {"images": found, "annotations": found} if name == "coco-captions" else found
        path = write(Path(folder), "x.jsonl" if name == "ms-swift" else "x.json", data)
        try:
            items = load_instructions(path, name=name).items
        except VidriskError as error:
            assert "\n" not in str(error)
            return
        assert len({item.id for item in items}) == len(items)
        for item in items:
            assert sum(turn.text.count(PHOTO) for turn in item.turns) == len(item.images)
            assert all(isinstance(image, PhotoFile) and image.path.is_file() for image in item.images)


def test_conversations_that_share_any_image_are_one_group(root: Path) -> None:
    draw(root / "c.jpg")
    records = [
        {"images": names, "conversations": asked("What?", "A wall.")}
        for names in (["a.jpg"], ["b.jpg", "a.jpg"], ["c.jpg"])
    ]
    one, two, three = load_instructions(write(root, "x.json", records)).items
    assert one.group == two.group != three.group


def test_a_file_of_sharegpt_whose_first_record_has_no_image(root: Path) -> None:
    """All other records keep their images and system texts when the first record has no image.

    Images are kept with and without markers.
    """
    records = [
        {"conversations": asked("Hello", "Hi.")},
        {"conversations": asked("<image>What?", "A wall."), "images": ["a.jpg"]},
        {"conversations": asked("What?", "A beam."), "images": ["b.jpg"], "system": "Be brief."},
    ]
    items = load_instructions(write(root, "x.json", records), strict=True).items
    assert [images(item) for item in items] == [[], ["a.jpg"], ["b.jpg"]] and items[2].turns[0] == Turn(
        "system", "Be brief."
    )


@pytest.mark.parametrize("formatting", [{"formatting": "sharegpt"}, {}])
def test_dataset_info_says_which_format_a_file_is_of(root: Path, formatting: dict[str, str]) -> None:
    records = [
        {"conversations": [{"who": "me", "says": "Hello"}, {"who": "it", "says": "Hi."}]},
        {"conversations": [{"who": "me", "says": "What?"}, {"who": "it", "says": "A wall."}], "pictures": ["a.jpg"]},
    ]
    write(
        root,
        "dataset_info.json",
        {
            "mine": {
                "file_name": "x.json",
                **formatting,
                "columns": {"images": "pictures"},
                "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "it"},
            }
        },
    )
    assert [images(item) for item in load_instructions(write(root, "x.json", records), strict=True).items] == [
        [],
        ["a.jpg"],
    ]

